"""VMAs made by hand: decoding, kinds, names, and the union of indices."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import LINUX, LINUX_5_10, Machine

from vmaforensics.views.indices.entries import IndexEntries, union_of
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.processes.mms import Mms
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.files import Files, FileTable
from vmaforensics.views.vmas.flag_names import bit_names, flag_names
from vmaforensics.views.vmas.kind import Kind
from vmaforensics.views.vmas.names import vma_names
from vmaforensics.views.vmas.vmas import Vmas, classify, read_vmas

FILE, MEMFD, UNKNOWN = 0xFFFF888000700000, 0xFFFF888000700100, 0xFFFF888000700200
PATHS = [b"/bin/a\nb", b"/memfd:x (deleted)", None]


def files() -> FileTable:
    rows = Files.of(file=[FILE, MEMFD, UNKNOWN], shmem=[False, True, False], ok=[True, True, False])
    return FileTable(rows=rows, paths=list(PATHS))


def read(machine: Machine, *addresses: int) -> tuple[Vmas, list[Problem]]:
    log = ProblemLog()
    vmas = read_vmas(machine.kernel(), np.array(addresses, np.uint64), log)
    return vmas, [Problem(kind) for kind in log.table().problem.tolist()]


def test_each_address_is_one_row_in_order() -> None:
    machine = Machine()
    first = machine.put("vm_area_struct", {"vm_start": 0x1000, "vm_end": 0x3000, "vm_pgoff": 7, "vm_flags": 0x75})
    second = machine.put("vm_area_struct", {"vm_mm": 5, "vm_refcnt.refs.counter": 1})
    vmas, problems = read(machine, second, first, second)
    assert vmas.vma.tolist() == [first, second]
    assert (vmas.start.tolist(), vmas.end.tolist()) == ([0x1000, 0], [0x3000, 0])
    assert vmas.anon_pgoff.tolist() == vmas.pgoff.tolist() == [7, 0]
    assert vmas.refcnt.tolist() == [0, 1]
    assert vmas.file_row.tolist() == [-1, -1]
    assert problems == []


def test_what_cannot_be_read_or_be_a_vma_is_a_row_without_values() -> None:
    machine = Machine()
    lost = machine.room(4096, 4096)
    machine.set("vm_area_struct", lost, "vm_start", 0x1000)
    machine.drop(lost)
    here = machine.put("vm_area_struct", {"vm_start": 0x2000})
    vmas, problems = read(machine, 0x1000, here + 1, here, lost)
    assert vmas.vma.tolist() == sorted([0x1000, here + 1, here, lost])
    assert vmas.vma[vmas.ok].tolist() == [here]
    assert vmas.start[~vmas.ok].tolist() == [0, 0, 0]
    assert problems == [Problem.UNREADABLE]  # of the others the index that holds them tells


def test_a_kernel_without_a_count_of_references_has_minus_one() -> None:
    machine = Machine(LINUX_5_10)
    vmas, _ = read(machine, machine.put("vm_area_struct", {"vm_next": 16}))
    assert (vmas.refcnt.tolist(), vmas.next.tolist()) == ([-1], [16])


def test_from_7_3_on_anonymous_pages_count_from_an_offset_of_their_own() -> None:
    words = LINUX["vm_area_struct"] + " __vm_anon_pgoff_hi:u32 __vm_anon_pgoff_lo:u32"
    machine = Machine(LINUX | {"vm_area_struct": words})
    vma = machine.put("vm_area_struct", {"vm_pgoff": 7, "__vm_anon_pgoff_hi": 2, "__vm_anon_pgoff_lo": 3})
    vmas, _ = read(machine, vma)
    assert (vmas.pgoff.tolist(), vmas.anon_pgoff.tolist()) == ([7], [2 << 32 | 3])


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({}, Kind.ANONYMOUS),
        ({"file": FILE}, Kind.FILE),
        ({"file": MEMFD}, Kind.SHARED_MEMORY),
        ({"file": FILE, "flags": flags.VM_PFNMAP}, Kind.DEVICE),
        ({"file": FILE, "flags": flags.VM_HUGETLB}, Kind.HUGETLB),
        ({"ok": False}, Kind.UNKNOWN),
    ],
)
def test_kinds(columns: dict[str, int], kind: Kind) -> None:
    vmas = Vmas.of(**{name: [value] for name, value in ({"ok": True} | columns).items()})
    classify(Machine().kernel(), vmas, files())
    assert vmas.kind.tolist() == [kind]


def special(machine: Machine, name: bytes) -> dict[str, int]:
    """The columns of a VMA made by _install_special_mapping, under ``name``."""
    text = machine.room(64)
    machine.write(text, name + b"\0")
    machine.symbols["special_mapping_name"] = 0xFFFF888000001111
    mapping = machine.put("vm_special_mapping", {"name": text})
    ops = machine.put("vm_operations_struct", {"name": 0xFFFF888000001111})
    return {"ops": ops, "private": mapping}


NAMED = LINUX | {
    "vm_special_mapping": "name:* pages:*",
    "anon_vma_name": "kref:u32 name:u8[80]",
    "rb_holder": "rb:rb_node",
    "vm_area_struct": LINUX["vm_area_struct"] + " shared:rb_holder",
}
MM = 0xFFFF888000600000
STACK, BRK = 0x7000_0000_5000, (0x5000_0000, 0x5000_8000)


def name_of(machine: Machine, **columns: int) -> bytes:
    vmas = Vmas.of(**{name: [value] for name, value in ({"ok": True, "mm": MM} | columns).items()})
    kernel = machine.kernel()
    classify(kernel, vmas, files())
    mms = Mms.of(mm=[MM], ok=[True], start_stack=[STACK], start_brk=[BRK[0]], brk=[BRK[1]])
    return vma_names(kernel, vmas, mms, files())[0]


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ({"start": 0x1000, "end": 0x2000}, b""),
        ({"start": STACK - 0x1000, "end": STACK + 0x1000}, b"[stack]"),
        ({"start": BRK[0], "end": BRK[0] + 0x1000}, b"[heap]"),
        ({"start": BRK[0] - 0x1000, "end": BRK[0]}, b"[heap]"),  # before 6.6 touching is enough
        ({"start": BRK[0] - 0x2000, "end": BRK[0] - 0x1000}, b""),
        ({"mm": 0}, b"[vdso]"),
        ({"mm": MM + 64, "start": STACK, "end": STACK + 1}, b""),  # of an mm that nobody read
        ({"file": FILE}, b"/bin/a\\012b"),
        ({"file": UNKNOWN}, b"?"),
        ({"file": FILE + 8}, b"?"),
        ({"file": FILE, "start": STACK, "end": STACK + 1}, b"/bin/a\\012b"),
    ],
)
def test_names(columns: dict[str, int], name: bytes) -> None:
    assert name_of(Machine(NAMED), **columns) == name


def test_from_6_6_on_the_heap_has_to_overlap() -> None:
    machine = Machine(NAMED | {"ptdesc": "flags:u64"})
    assert name_of(machine, start=BRK[0] - 0x1000, end=BRK[0]) == b""
    assert name_of(machine, start=BRK[0], end=BRK[0] + 0x1000) == b"[heap]"


@pytest.mark.parametrize(("form", "name"), [(b"THPeligible:    %d\n\0", b"[heap]"), (b"THPeligible:    %8u\n\0", b"")])
def test_whether_the_heap_may_only_touch_is_told_by_the_formats_of_the_same_file(form: bytes, name: bytes) -> None:
    # As enterprise kernels have it: structures of one release, fs/proc/task_mmu.c of another.
    machine = Machine(NAMED | ({"ptdesc": "flags:u64"} if name else {}))
    machine.symbols["__start_rodata"] = start = machine.room(2 * 4096, 4096)
    machine.symbols["__end_rodata"] = start + 2 * 4096
    machine.write(start + 4000, form)
    assert name_of(machine, start=BRK[0] - 0x1000, end=BRK[0]) == name


def test_special_mappings_name_themselves() -> None:
    machine = Machine(NAMED)
    assert name_of(machine, **special(machine, b"[vvar]")) == b"[vvar]"
    assert name_of(machine, **(special(machine, b"") | {"private": 0x10})) == b"?"


def test_a_name_given_to_anonymous_memory() -> None:
    machine = Machine(NAMED)
    name = machine.put("anon_vma_name", {"name": b"pool"})
    empty = machine.put("anon_vma_name")
    assert name_of(machine, anon_name=name) == b"[anon:pool]"
    assert name_of(machine, anon_name=name, file=MEMFD) == b"[anon_shmem:pool]"
    assert name_of(machine, anon_name=empty) == b""
    assert name_of(machine, anon_name=0x10) == b""


def test_a_file_has_no_such_name_where_it_lies_in_a_union_with_the_reverse_map() -> None:
    words = LINUX["vm_area_struct"].replace("anon_name:*", "anon_name@256:* shared@256:rb_holder")
    machine = Machine(NAMED | {"vm_area_struct": words})
    name = machine.put("anon_vma_name", {"name": b"pool"})
    assert name_of(machine, anon_name=name) == b"[anon:pool]"
    assert name_of(machine, anon_name=name, file=MEMFD) == b"/memfd:x (deleted)"


def test_bits_of_vm_flags_are_named_as_the_kernel_means_them() -> None:
    old, new = Machine(LINUX_5_10).kernel(), Machine(LINUX | {"thread_shstk": "base:u64"}).kernel()
    assert flag_names(old, 0x75) == ["VM_READ", "VM_EXEC", "VM_MAYREAD", "VM_MAYWRITE", "VM_MAYEXEC"]
    assert flag_names(old, 1 << 11 | 1 << 63) == ["VM_DENYWRITE", "bit 63"]
    assert flag_names(new, 1 << 37) == ["VM_SHADOW_STACK"]
    assert 11 not in bit_names(new)


@pytest.mark.parametrize(("enumerator", "name"), [("MCOPY_ATOMIC_CONTINUE", "VM_UFFD_MINOR"), ("OTHER", "bit 37")])
def test_uffd_minor_came_with_its_mode_of_copying(enumerator: str, name: str) -> None:
    """5.13 (7677f7fd8be7): in kernels without a maple tree too."""
    assert flag_names(Machine(LINUX_5_10, {enumerator: 2}).kernel(), 1 << 37) == [name]


def test_enumerators_of_bits_go_before_what_is_known() -> None:
    kernel = Machine(LINUX, {"VMA_READ_BIT": 3, "VMA_SEALED_BIT": 42, "VMA_SHADOW_STACK_BIT": 37}).kernel()
    assert bit_names(kernel) == {3: "READ", 42: "SEALED"}  # without thread_shstk the bit means nothing


def entries(*rows: tuple[int, int, int]) -> IndexEntries:
    mm, vma, start = zip(*rows, strict=True) if rows else ((), (), ())
    return IndexEntries.of(mm=list(mm), vma=list(vma), start=list(start))


def test_the_union_has_each_vma_of_each_mm_once() -> None:
    left = entries((1, 10, 0x1000), (2, 20, 0x1000))
    right = entries((1, 11, 0x500), (1, 10, 0x1000), (2, 10, 0x3000))
    union = union_of([left, right])
    assert list(zip(union.mm.tolist(), union.vma.tolist(), strict=True)) == [(1, 11), (1, 10), (2, 20), (2, 10)]


def test_the_union_of_one_index_in_order_is_that_index() -> None:
    index = entries((1, 10, 0x1000), (1, 11, 0x2000), (2, 9, 0))
    assert union_of([index]) is index
    assert len(union_of([entries((1, 10, 0x1000), (1, 10, 0x1000))])) == 1
    assert len(union_of([])) == 0
