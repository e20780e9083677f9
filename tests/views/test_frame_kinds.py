"""Page frames are told apart in every encoding kernels have used, and exactly as the kernel counts them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import RESTING, ROOT

from vmaforensics.errors import MemoryReadError
from vmaforensics.image.open import open_image
from vmaforensics.kernel.find import find_kernel
from vmaforensics.kernel.kernel import Identity, Kernel
from vmaforensics.kernel.space.kernel_space import KernelSpace, LinearPiece
from vmaforensics.kernel.structures.layout import Field, Layout
from vmaforensics.kernel.symbols.kallsyms import Kallsyms
from vmaforensics.kernel.symbols.vmcoreinfo import parse
from vmaforensics.views.pages.frame_kinds import ANON_KINDS, FrameKind, FrameKinds, classify_frames, kinds_of_frames
from vmaforensics.views.pages.free_lists import listed_free, per_cpu_free
from vmaforensics.views.pages.page_types import PageReader, TypeCode, type_code

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.kernel.symbols.vmcoreinfo import Vmcoreinfo


MIB = 1 << 20
LINEAR = 0xFFFF8880_00000000
VMEMMAP = 0xFFFFEA00_00000000
PAGES = 4 * MIB // 4096
UNMAPPED, BUDDY = 0xFFFFFFFF, 3  # a map count of -1; the order of the free block
MAPPING = LINEAR + 0x1000


def sample_images() -> list[Path]:
    """The bundled images, and those the recipe has built here: these alone hold user memory."""
    built = [path for path in sorted(ROOT.glob("build/images/*.elf")) if "bench" not in path.name]
    return [sample.image_path for sample in RESTING] + built


@pytest.fixture(params=sample_images(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def sample(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@lru_cache(maxsize=1)
def kernel_of(path: Path) -> Kernel:
    return find_kernel(open_image(path))


# Made-up kernels ------------------------------------------------------------------------------------------

OLD = {"PG_lru": 4, "PG_slab": 9, "PG_reserved": 12, "PG_head": 16, "PG_swapcache": 10, "PG_swapbacked": 19}
OLD |= {"HUGETLB_PAGE_DTOR": 2}
NEW = {"PG_lru": 5, "PG_reserved": 13, "PG_head": 6, "PG_swapcache": 10, "PG_swapbacked": 17}
NEW |= {"PGTY_buddy": 0xF0, "PGTY_offline": 0xF1, "PGTY_table": 0xF2, "PGTY_hugetlb": 0xF4, "PGTY_slab": 0xF5}
NEW |= {"PGTY_zsmalloc": 0xF6, "PGTY_large_kmalloc": 0xF8}
BITS = {**{name: value for name, value in NEW.items() if "PGTY" not in name}, "PG_buddy": 1 << 30}
BITS |= {"PG_offline": 1 << 29, "PG_table": 1 << 28, "PG_hugetlb": 1 << 26, "PG_slab": 1 << 25}
BITS |= {"PG_zsmalloc": 1 << 24, "PG_large_kmalloc": 1 << 23}


class MadeUpTypes:
    """``struct page`` as it is in all kernels so far, with one or the other name for its members."""

    def __init__(self, constants: dict[str, int], *, mask: bool) -> None:
        self.constants = constants
        u64 = {"flags": 0, "compound_info" if mask else "compound_head": 8, "mapping": 24, "private": 40}
        page = {name: Field(offset=at, size=8) for name, at in u64.items()}
        page["lru"] = Field(offset=8, size=16, struct="list_head")
        page["page_type"] = Field(offset=48, size=4)
        page["memcg_data"] = Field(offset=56, size=8)
        if constants is OLD:
            page["compound_dtor"] = Field(offset=16, size=1)
        zone = {"per_cpu_pageset": Field(offset=0, size=8, struct="per_cpu_pages", pointer=True)}
        lists = {"lists": Field(offset=16, size=16, count=12, struct="list_head")}
        zones = {"node_zones": Field(offset=0, size=64, count=2, struct="zone")}
        self.layouts = {
            "page": Layout(name="page", size=64, fields=page),
            "zone": Layout(name="zone", size=64, fields=zone),
            "per_cpu_pages": Layout(name="per_cpu_pages", size=256, fields=lists),
            "pglist_data": Layout(name="pglist_data", size=128, fields=zones),
        }

    def struct(self, name: str) -> Layout | None:
        return self.layouts.get(name)

    def constant(self, name: str) -> int | None:
        return self.constants.get(name)


def made_up(tmp_path: Path, constants: dict[str, int], edit: dict[int, dict[int, int]], *, mask: bool) -> Kernel:
    """A machine of 4 MiB whose struct pages lie at 1 MiB; ``edit``: frame → offset → 64-bit word.

    Its first zone's per-CPU lists, at 2 MiB, hold frame 700 on the list of order 1 and nothing else.
    """
    data = np.zeros(4 * MIB, np.uint8)
    pages = data[MIB : MIB + 64 * PAGES].view("<u8").reshape(PAGES, 8)
    pages[:, 6] = UNMAPPED
    for frame, changes in edit.items():
        for offset, word in changes.items():
            pages[frame, offset // 8] = word % (1 << 64)
    words = data.view("<u8")
    words[0] = VMEMMAP
    node, pcp = 2 * MIB, 2 * MIB + 4096
    words[node // 8] = words[(node + 64) // 8] = LINEAR + pcp
    for index in range(12):
        head = pcp + 16 + 16 * index
        words[head // 8] = LINEAR + head
        if index == 4:
            words[head // 8] = words[head // 8 + 1] = VMEMMAP + 700 * 64 + 8
            pages[700, 1] = pages[700, 2] = LINEAR + head
    path = tmp_path / "image.raw"
    path.write_bytes(data.tobytes())
    memory = open_image(path).memory
    info: Vmcoreinfo | None = None
    if constants is OLD:
        info = parse(b"NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-129\nNUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)=-257\n", "")
    return Kernel(
        memory=memory,
        space=KernelSpace.linear(
            memory, [LinearPiece(LINEAR, LINEAR + 4 * MIB - 1, 0), LinearPiece(VMEMMAP, VMEMMAP + 64 * PAGES - 1, MIB)]
        ),
        symbols=Kallsyms.of({"vmemmap_base": LINEAR, "contig_page_data": LINEAR + node}),
        types=MadeUpTypes(constants, mask=mask),
        identity=Identity(
            release="",
            banner="",
            build_id=None,
            levels=4,
            isolation=None,
            kaslr_offset=None,
            phys_base=0,
            vmcoreinfo_source=None,
            symbols_source="",
            types_source="",
            translation_source="",
        ),
        vmcoreinfo=info,
    )


@pytest.mark.parametrize(("bit", "other"), [(0x200, 0x400), (0x400, 0x200)])
def test_without_memory_cgroups_page_tables_are_of_the_type_that_many_pages_are_of(
    tmp_path: Path, bit: int, other: int
) -> None:
    """PG_table is the third type from 5.11 on; before, PG_kmemcg was."""
    edit = {frame: {48: ~bit & UNMAPPED} for frame in range(3, 9)} | {9: {48: ~other & UNMAPPED}}
    kernel = made_up(tmp_path, OLD, edit, mask=False)
    page = kernel.types.struct("page")
    assert page is not None
    del page.fields["memcg_data"]
    assert type_code(kernel, "table") == TypeCode(mask=1 << 31 | bit, value=1 << 31)


@pytest.mark.parametrize("mask", [False, True], ids=["head pointer", "head mask"])
@pytest.mark.parametrize("constants", [OLD, BITS, NEW], ids=["defined bits", "enumerated bits", "top byte"])
def test_every_kind_is_told_in_every_encoding(tmp_path: Path, constants: dict[str, int], mask: bool) -> None:
    def flag(*names: str) -> int:
        return sum(1 << constants[name] for name in names)

    def kind(name: str) -> dict[int, int]:
        defined = {"buddy": ~0x80, "offline": ~0x100, "table": ~0x200}
        if constants is OLD and name == "slab":
            return {0: flag("PG_slab"), 24: MAPPING}  # slab_cache lies where mapping would
        if constants is OLD:
            return {48: defined[name] & UNMAPPED}
        if constants is BITS:
            return {48: ~constants[f"PG_{name}"] & UNMAPPED}
        return {48: constants[f"PGTY_{name}"] << 24}

    def tail(frame: int, order: int) -> dict[int, int]:
        head = frame & -(1 << order)
        return {8: -(64 << order) | 1 if mask else VMEMMAP + head * 64 + 1}

    huge = {0: flag("PG_head")} if constants is OLD else {0: flag("PG_head"), **kind("hugetlb")}
    edit = {
        1: {0: flag("PG_reserved")},
        2: {24: MAPPING + 1, 48: 3, 0: flag("PG_lru")},  # mapped four times
        3: {24: MAPPING + 3},  # KSM
        4: {24: MAPPING},
        5: {0: flag("PG_lru")},  # truncated while in use
        6: {0: flag("PG_swapcache", "PG_swapbacked")},
        7: kind("table"),
        8: kind("slab") | {0: flag("PG_head") | kind("slab").get(0, 0)},
        9: tail(9, 1),
        16: {0: flag("PG_head", "PG_lru"), 24: MAPPING + 1},
        **{frame: tail(frame, 2) | {24: 0x400} for frame in range(17, 20)},
        32: huge,
        33: tail(33, 3) | {16: 2},  # compound_dtor
        **{frame: tail(frame, 3) for frame in range(34, 40)},
        48: kind("buddy") | {40: BUDDY},
        50: {24: MAPPING + 1},  # what it was before it became free
        64: kind("offline"),
        65: {0: -1, 8: -1, 24: -1, 40: -1, 48: -1},  # never initialised
        66: tail(66, 9) | {8: VMEMMAP + (1 << 40) + 1},  # a head that is nowhere
    }
    if constants is not OLD:
        edit[67] = kind("zsmalloc")
        edit[68] = kind("large_kmalloc")
    kernel = made_up(tmp_path, constants, edit, mask=mask)
    found = classify_frames(kernel)
    kinds = found.kinds
    expected = np.full(PAGES, FrameKind.KERNEL, np.uint8)
    expected[1] = FrameKind.RESERVED
    expected[[2, 16, 17, 18, 19]] = FrameKind.ANONYMOUS
    expected[3] = FrameKind.KSM
    expected[6] = FrameKind.SWAP_CACHE
    expected[[4, 5]] = FrameKind.PAGE_CACHE
    expected[7] = FrameKind.PAGE_TABLE
    expected[[8, 9]] = FrameKind.SLAB
    expected[32:40] = FrameKind.HUGETLB
    expected[48:56] = FrameKind.FREE
    expected[64] = FrameKind.FREE
    expected[[700, 701]] = FrameKind.PER_CPU_FREE
    expected[[65, 66]] = FrameKind.UNKNOWN
    if constants is not OLD:
        expected[67] = FrameKind.MOVABLE
        expected[68] = FrameKind.LARGE_KMALLOC
    assert found.ranges.tolist() == [[0, PAGES]]
    wrong = np.flatnonzero(kinds != expected)
    assert not len(wrong), [(frame, FrameKind(kinds[frame]).label) for frame in wrong.tolist()]
    few = np.array([700, 3, 33, 67, PAGES + 5], np.uint64)
    assert kinds_of_frames(kernel, few).tolist() == [*expected[[700, 3, 33, 67]].tolist(), FrameKind.UNKNOWN]


def test_blocks_that_are_forged_to_overlap_are_marked_once(tmp_path: Path) -> None:
    buddy = {48: NEW["PGTY_buddy"] << 24}
    edit = {frame: buddy | {40: 18} for frame in range(100, 110)} | {90: buddy | {40: 2}, 91: buddy | {40: 1 << 40}}
    kinds = classify_frames(made_up(tmp_path, NEW, edit, mask=True)).kinds
    assert np.flatnonzero(kinds == FrameKind.FREE).tolist() == [*range(90, 94), *range(100, PAGES)]


def test_a_per_cpu_list_that_runs_in_circles_ends(tmp_path: Path) -> None:
    kernel = made_up(tmp_path, NEW, {}, mask=True)
    reader = PageReader(kernel)
    assert per_cpu_free(kernel, reader)[0].tolist() == [700]
    page = MIB + 700 * 64 + 8
    data = bytearray((tmp_path / "image.raw").read_bytes())
    data[page : page + 8] = (VMEMMAP + 700 * 64 + 8).to_bytes(8, "little")
    (tmp_path / "image.raw").unlink()
    (tmp_path / "image.raw").write_bytes(data)
    memory = open_image(tmp_path / "image.raw").memory
    kernel.memory = kernel.space.memory = memory
    found = per_cpu_free(kernel, reader)[0].tolist()
    assert set(found) == {700}
    assert len(found) < 4


def test_frames_of_a_per_cpu_list_that_is_broken_are_found_from_both_ends(tmp_path: Path) -> None:
    """Frames 600 to 607 on the list, whose fourth frame leads nowhere."""
    kernel = made_up(tmp_path, NEW, {}, mask=True)
    data = np.frombuffer(bytearray((tmp_path / "image.raw").read_bytes()), np.uint8)
    words = data.view("<u8")
    head = 2 * MIB + 4096 + 16
    nodes = [LINEAR + head, *(VMEMMAP + frame * 64 + 8 for frame in range(600, 608))]
    places = [head, *(MIB + frame * 64 + 8 for frame in range(600, 608))]
    for row, place in enumerate(places):
        words[place // 8] = nodes[(row + 1) % len(nodes)]
        words[place // 8 + 1] = nodes[row - 1]
    everything = np.arange(PAGES, dtype=np.uint64)
    for broken, lost in ((False, []), (True, [603, 604])):
        if broken:
            words[places[4] // 8] = LINEAR + 0x1000
            words[places[5] // 8 + 1] = 0
            words[places[4] // 8 + 1] = 0
            words[places[5] // 8] = 0
        (tmp_path / "image.raw").unlink(missing_ok=True)
        (tmp_path / "image.raw").write_bytes(data.tobytes())
        kernel.memory = kernel.space.memory = open_image(tmp_path / "image.raw").memory
        found, orders, whole = listed_free(kernel, PageReader(kernel), everything)
        assert [pfn for pfn in found.tolist() if pfn < 700] == [pfn for pfn in range(600, 608) if pfn not in lost]
        assert set(orders[found < 700].tolist()) == {0}
        assert whole


def test_kinds_of_frames_outside_ram_are_unknown() -> None:
    ranges = np.array([[4, 6], [9, 10]], np.uint64)
    kinds = FrameKinds(ranges=ranges, kinds=np.array([1, 2, 3], np.uint8))
    assert kinds.of(np.array([3, 4, 5, 6, 9, 10], np.uint64)).tolist() == [0, 1, 2, 0, 3, 0]
    assert kinds.pfns(np.array([0, 1, 2])).tolist() == [4, 5, 9]
    none = FrameKinds(ranges=np.zeros((0, 2), np.uint64), kinds=np.zeros(0, np.uint8))
    assert none.of(np.array([1], np.uint64)).tolist() == [0]
    assert none.pfns(np.zeros(0, np.int64)).tolist() == []


# Real kernels ---------------------------------------------------------------------------------------------


def test_page_types_are_what_vmcoreinfo_states(sample: Path) -> None:
    kernel = kernel_of(sample)
    assert kernel.vmcoreinfo is not None
    for name in ("buddy", "offline", "slab", "hugetlb"):
        stated = kernel.vmcoreinfo.number(f"PAGE_{name.upper()}_MAPCOUNT_VALUE")
        code = type_code(kernel, name)
        assert (stated is None) == (code is None)
        if stated is not None and code is not None:
            words = np.array([stated & UNMAPPED, UNMAPPED, 0, 5], np.uint32)
            assert code.matches(words).tolist() == [True, False, False, False]


def test_frames_are_counted_as_the_kernel_counts_them(sample: Path) -> None:
    """vm_node_stat and vm_zone_stat; what each CPU has not yet added to them is the only difference."""
    kernel = kernel_of(sample)
    kinds = classify_frames(kernel)
    count = {kind: kinds.count(kind) for kind in FrameKind}
    if count[FrameKind.UNKNOWN] > len(kinds.kinds) // 2:
        pytest.skip("the image holds no struct pages")

    def counter(array: str, name: str) -> int:
        base, index = kernel.symbols.get(array), kernel.types.constant(name)
        try:
            return 0 if base is None or index is None else kernel.u64(base + 8 * index)
        except MemoryReadError:
            pytest.skip("the kernel's own counts are not in the image: it is an excerpt of what the analysis reads")

    _, orders = per_cpu_free(kernel, PageReader(kernel))
    assert count[FrameKind.PER_CPU_FREE] == int((1 << orders).sum())
    assert abs(count[FrameKind.FREE] - counter("vm_zone_stat", "NR_FREE_PAGES")) <= 64
    mapped, file = counter("vm_node_stat", "NR_ANON_MAPPED"), counter("vm_node_stat", "NR_FILE_PAGES")
    # The swap cache is counted among the files; its pages are anonymous.
    anonymous = sum(count[kind] for kind in ANON_KINDS)
    assert abs(anonymous + count[FrameKind.PAGE_CACHE] - mapped - file) <= 64
    assert 0 <= anonymous - mapped <= 256
    # NR_PAGETABLE moved from the zones to the nodes in 5.11.
    where = "vm_node_stat" if counter("vm_node_stat", "NR_PAGETABLE") else "vm_zone_stat"
    assert abs(count[FrameKind.PAGE_TABLE] - counter(where, "NR_PAGETABLE")) <= 64
    slab = sum(counter("vm_node_stat", f"NR_SLAB_{kind}RECLAIMABLE_B") for kind in ("", "UN"))
    assert 0 <= slab - count[FrameKind.SLAB] <= slab // 4  # it counts large kmalloc allocations too
