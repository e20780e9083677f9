from __future__ import annotations

import re
import struct
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest
from work import budget

from vmaforensics.arch.registers import CpuState
from vmaforensics.errors import MemoryReadError, UnsupportedFormatError
from vmaforensics.image.open import open_image
from vmaforensics.image.placed import PageState

from .build import NOTES, PAGE, VMCOREINFO, Load, elf, note, page, prstatus
from .truth import bytes_of, check, pfns, states

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Opener

DIRECT = 0xFFFF888000000000


def test_reads_what_proc_vmcore_lays_out(opened: Opener) -> None:
    pages = {n: page(n) for n in (1, 2, 3, 16, 17)}
    loads = [
        Load(pa=0x2000, data=pages[2] + pages[3], va=0xFFFFFFFF81000000),  # kernel text, mapped twice
        Load(pa=0x1000, data=pages[1] + pages[2] + pages[3], va=DIRECT + 0x1000),
        Load(pa=0x10000, data=pages[16] + pages[17], va=DIRECT + 0x10000),
    ]
    image = opened(elf(loads, NOTES, align=PAGE))
    check(image.memory, bytes_of(pages), set(), 18 * PAGE)
    assert image.problems == ()
    assert states(image.memory, 20) == "-ppp------------pp--"


def test_reads_what_qemu_lays_out(opened: Opener) -> None:
    """Section headers first, e_ehsize 8, file offsets off the page grid, virtual = physical addresses."""
    pages = {0: page(0), 1: page(1), 0x40: page(2)}
    loads = [Load(pa=0, data=pages[0] + pages[1]), Load(pa=0x40000, data=pages[0x40])]
    image = opened(elf(loads, NOTES, phoff=192, ehsize=8))
    check(image.memory, bytes_of(pages), set(), 0x41 * PAGE)


def test_notes_give_vmcoreinfo_and_cpus(opened: Opener) -> None:
    image = opened(elf([Load(pa=0, data=page(0))], NOTES))
    assert image.vmcoreinfo == VMCOREINFO
    assert image.cpus == (
        CpuState(cpu=0, pid=260, ip=0xFFFFFFFF81000010, sp=0xFFFFC90000001000, table_register=0x1234000, levels=4),
        CpuState(cpu=1, pid=0, ip=0xFFFFFFFF81000020, sp=0xFFFFC90000002000, table_register=0x5678000, levels=4),
    )
    assert [n.name for n in image.notes] == ["CORE", "CORE", "QEMU", "QEMU", "VMCOREINFO"]
    assert image.details["ELF machine"] == "X86_64"


def test_a_dump_of_another_machine_is_refused_by_name(opened: Opener) -> None:
    with pytest.raises(UnsupportedFormatError, match=r"another machine \(AARCH64\)"):
        opened(elf([Load(pa=0, data=page(0))], NOTES, machine=183))


def test_what_makedumpfile_left_out_is_absent_and_not_zero(opened: Opener) -> None:
    image = opened(elf([Load(pa=0x1000, data=page(1), memsz=4 * PAGE), Load(pa=0x9000, data=b"", memsz=PAGE)]))
    check(image.memory, bytes_of({1: page(1)}), {*range(0x2000, 0x5000), *range(0x9000, 0xA000)}, 10 * PAGE)
    assert states(image.memory, 11) == "-paaa----a-"
    with pytest.raises(MemoryReadError, match=r"0x2000.*not in the dump"):
        image.memory.read(0x1FF8, 16)
    with pytest.raises(MemoryReadError, match="outside the RAM"):
        image.memory.read(0x6000, 16)


def test_of_two_segments_of_one_range_the_one_that_holds_the_bytes_is_read(opened: Opener) -> None:
    loads = [
        Load(pa=0, data=b"", memsz=4 * PAGE, va=DIRECT),
        Load(pa=0x1000, data=page(1) + page(2), va=0xFFFFFFFF81000000),
    ]
    for order in (loads, loads[::-1]):
        image = opened(elf(order))
        check(image.memory, bytes_of({1: page(1), 2: page(2)}), set(range(4 * PAGE)), 4 * PAGE)
        assert image.problems == ()


def test_segments_that_contradict_each_other_are_said_to(opened: Opener) -> None:
    image = opened(elf([Load(pa=0x1000, data=page(1) + page(2)), Load(pa=0, data=page(3) + page(4))]))
    check(image.memory, bytes_of({0: page(3), 1: page(4), 2: page(2)}), set(), 3 * PAGE)
    assert "1 PT_LOAD segment overlap" in image.problems[0]


def test_an_item_is_whole_where_two_segments_meet_inside_a_page(opened: Opener) -> None:
    first, second = page(1, 0x1234), page(2, 0x2000)
    loads = [Load(pa=0x1234, data=second), Load(pa=0, data=first), Load(pa=0x5000, data=page(5))]
    held = dict(enumerate(first + second)) | {0x5000 + at: octet for at, octet in enumerate(page(5))}
    check(opened(elf(loads)).memory, held, set(), 6 * PAGE)


def test_more_than_65534_headers_are_counted_in_section_0_and_read_at_once(opened: Opener) -> None:
    count = 70_000
    data = np.arange(count, dtype="<u8").tobytes()
    table = np.zeros(count, dtype="<u8,<u8,<u8,<u8,<u8,<u8,<u8")
    start = 128 + count * 56
    table["f0"], table["f1"] = 1 | 7 << 32, start + np.arange(count) * 8
    table["f2"] = table["f3"] = np.arange(count) * PAGE
    table["f4"] = table["f5"] = 8
    head = bytearray(elf([], phoff=128, extended=True))
    struct.pack_into("<I", head, 64 + 44, count)
    image_bytes = bytes(head) + table.tobytes() + data
    with budget(calls=count // 10):  # not one per header
        memory = opened(image_bytes).memory
    assert len(memory.ranges) == count
    got, ok = memory.gather(np.arange(count, dtype=np.uint64) * np.uint64(PAGE), 8)
    assert ok.all()
    assert got.tobytes() == data


def test_thousands_of_aliases_of_one_page_are_one_page(opened: Opener) -> None:
    loads = [Load(pa=0x3000, data=b"", filesz=PAGE, offset=64, va=0xFFFFFF0000000000 + n * PAGE) for n in range(2000)]
    image = opened(elf([*loads, Load(pa=0x4000, data=page(4))]))
    assert image.memory.ranges.tolist() == [[0x3000, 0x5000]]
    assert image.problems == ()


def test_segments_without_a_physical_address_are_skipped(opened: Opener) -> None:
    image = opened(elf([Load(pa=2**64 - 1, data=page(1)), Load(pa=0, data=page(2))]))
    assert image.memory.ranges.tolist() == [[0, PAGE]]
    assert image.details["segments without a physical address"] == "1 (skipped)"


def test_segments_beyond_physical_addresses_are_left_out_with_a_word(opened: Opener) -> None:
    loads = [
        Load(pa=pa, data=page(1), memsz=memsz)
        for pa, memsz in ((1 << 52, PAGE), (2**64 - 8192, 1 << 20), (0x1000, 1 << 60), (0x2000, PAGE))
    ]
    image = opened(elf(loads))
    assert image.memory.ranges.tolist() == [[0x2000, 0x3000]]
    assert "3 PT_LOAD segments left out" in image.problems[0]


def test_a_trace_of_a_huge_address_space_stays_small(opened: Opener) -> None:
    image = opened(
        elf(
            [
                Load(pa=(1 << 52) - PAGE, data=page(1)),
                Load(pa=0, data=page(2)),
                Load(pa=1 << 41, data=page(3)),
            ]
        )
    )
    memory = image.memory
    memory.start_trace()
    rows = np.array([(1 << 52) - 8, 16, (1 << 41) + 5, (1 << 41) + 9, 1 << 63], np.uint64)
    assert memory.gather(rows, 1)[1].tolist() == [True, True, True, True, False]
    assert memory.traced().tolist() == [0, 1 << 29, (1 << 40) - 1]


def test_more_bytes_in_the_file_than_in_memory_are_not_read(opened: Opener) -> None:
    image = opened(elf([Load(pa=0, data=page(1) + page(2), memsz=PAGE)]))
    check(image.memory, bytes_of({0: page(1)}), set(), PAGE)
    assert "surplus" in image.problems[0]


def test_a_truncated_file_says_what_is_missing(opened: Opener) -> None:
    data = elf([Load(pa=0, data=page(1) + page(2)), Load(pa=0x8000, data=page(3))])
    image = opened(data[: -PAGE - 100])
    held = bytes_of({0: page(1)}) | {PAGE + at: octet for at, octet in enumerate(page(2)[:-100])}
    check(image.memory, held, {*range(2 * PAGE), *range(0x8000, 0x9000)}, 9 * PAGE)
    assert states(image.memory, 9) == "pa------a"
    assert "4,196 bytes of 2 PT_LOAD segments are missing" in image.problems[0]


def test_the_core_of_a_process_is_refused(opened: Opener) -> None:
    notes = prstatus(7, 0x401000, 0x7FFC0000) + note(b"CORE", 3, bytes(136)) + note(b"CORE", 0x46494C45, bytes(16))
    load = Load(pa=0, data=page(1), va=0x400000)
    with pytest.raises(UnsupportedFormatError, match="core of a user process"):
        opened(elf([load], notes))
    kcore = opened(elf([load], notes + note(b"VMCOREINFO", 0, VMCOREINFO)))
    assert kcore.vmcoreinfo == VMCOREINFO


def test_the_core_of_a_hypervisor_is_refused_with_the_way_to_its_guest(tmp_path: Path) -> None:
    path = tmp_path / "core"
    notes = prstatus(7, 0x401000, 0x7FFC0000) + note(b"CORE", 3, bytes(136))
    guest, size = page(2) * 2, 64 << 20
    data = bytearray(elf([Load(pa=0, data=page(1), va=0x400000), Load(pa=0, data=guest, va=0x7F0000000000)], notes))
    at = data.index(struct.pack("<QQ", 0x7F0000000000, 0)) + 16  # behind p_vaddr and p_paddr
    data[at : at + 16] = struct.pack("<QQ", size, size)
    path.write_bytes(data)
    with pytest.raises(UnsupportedFormatError, match="if the process is a hypervisor") as caught:
        open_image(path)
    command = re.search("`(tail.*)`", str(caught.value))
    assert command is not None
    subprocess.run(command[1], shell=True, check=True)
    assert (tmp_path / "core.guest").read_bytes().startswith(guest)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"phentsize": 32}, "e_phentsize"),
        ({"kind": 1}, "ET_REL"),
    ],
)
def test_headers_that_cannot_be_believed_are_refused(opened: Opener, change: dict[str, int], complaint: str) -> None:
    with pytest.raises(UnsupportedFormatError, match=complaint):
        opened(elf([Load(pa=0, data=page(1))], **change))  # type: ignore[arg-type]


def test_program_headers_outside_the_file_are_refused(opened: Opener) -> None:
    data = bytearray(elf([Load(pa=0, data=page(1))]))
    for at in (0, 16, len(data), len(data) - 55, 2**64 - 1):
        struct.pack_into("<Q", data, 32, at)
        with pytest.raises(UnsupportedFormatError, match="e_phoff"):
            opened(bytes(data))


def test_a_core_without_memory_is_refused(opened: Opener) -> None:
    for data in (elf([]), elf([], NOTES), elf([Load(pa=0, data=b"")])):
        with pytest.raises(UnsupportedFormatError):
            opened(data)


@pytest.mark.parametrize("sizes", [(2**32 - 1, 0), (4, 2**32 - 1), (0, 2**31), (2**32 - 4, 2**32 - 4)])
def test_a_note_larger_than_its_segment_ends_the_notes(opened: Opener, sizes: tuple[int, int]) -> None:
    image = opened(elf([Load(pa=0, data=page(1))], NOTES + struct.pack("<III", *sizes, 1) + b"CORE"))
    assert len(image.notes) == 5
    assert "note at byte" in image.problems[0]
    assert image.memory.page_states(pfns(0)) == PageState.PRESENT


def test_makedumpfile_s_own_warnings_are_passed_on(opened: Opener) -> None:
    image = opened(elf([Load(pa=0, data=page(1))], note(b"ERASEINFO", 0, b"erase cred.uid size 4\n"), flags=1))
    assert "incomplete" in image.problems[0]
    assert "erase cred.uid size 4" in image.problems[1]
