from __future__ import annotations

import dataclasses
import re
import tarfile
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import Edit, kernel_on

from vmaforensics.arch.page_tables import PteState
from vmaforensics.proc.smaps import SmapsPrinter, letters
from vmaforensics.views.pages.entries import KeptEntries
from vmaforensics.views.pages.smaps import Smaps, read_smaps
from vmaforensics.views.pages.swap import swap_counts, swap_holders

if TYPE_CHECKING:
    from pathlib import Path

    from support import Sample

    from vmaforensics.analysis import Analysis
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views

EXACT = {
    "Size",
    "KernelPageSize",
    "MMUPageSize",
    "Rss",
    "Pss",
    "Shared_Clean",
    "Shared_Dirty",
    "Private_Clean",
    "Private_Dirty",
    "Anonymous",
    "LazyFree",
    "AnonHugePages",
    "ShmemPmdMapped",
    "FilePmdMapped",
    "Shared_Hugetlb",
    "Private_Hugetlb",
    "Swap",
    "SwapPss",
    "Locked",
    "ProtectionKey",
    "VmFlags",
}
# A page may be used between the second in which it was written down and that in which the machine was paused.
MOVING = {"Referenced"}
MOST_MOVED = 2  # VMAs


def smaps_truth(sample: Sample) -> dict[str, bytes]:
    return _read(sample.truth.path, sample.truth.capturing)


@cache
def _read(path: Path, capturing: int) -> dict[str, bytes]:
    """What the guest read, by process or thread, without the process that was reading."""
    found = {}
    with tarfile.open(path) as tar:
        for entry in tar:
            name = entry.name.removeprefix("./")
            hit = re.fullmatch(r"proc/(\d+)/(?:task/(\d+)/)?smaps", name)
            stream = tar.extractfile(entry) if hit else None
            if hit and stream is not None and int(hit[1]) != capturing:
                found[hit[2] or hit[1]] = stream.read()
    return found


def areas(text: bytes) -> list[bytes]:
    return re.split(rb"(?<=\n)(?=[0-9a-f]{8,16}-[0-9a-f]{8,16} )", text) if text else []


def fields(area: bytes) -> dict[str, bytes]:
    head, *rest = area.split(b"\n")
    return {"": head} | {line.split(b":")[0].decode(): line for line in rest if line}


def tasks_mm(analysis: Analysis) -> dict[int, int]:
    """Address of the ``mm_struct`` of each thread; 0 for none."""
    tasks = analysis.views.tasks
    return dict(zip(tasks.pid.tolist(), tasks.mm.tolist(), strict=True))


def smaps_of(kernel: Kernel, views: Views) -> Smaps:
    assert views.files is not None
    return read_smaps(kernel, views.index, views.mms, views.vmas, views.files.rows, views.page_tables)


def printer(sample: Sample) -> SmapsPrinter:
    return SmapsPrinter(sample.analysis.kernel, sample.analysis.views)


def test_smaps_are_the_bytes_the_guest_read(whole_kernel: Sample) -> None:
    truth, mms = smaps_truth(whole_kernel), tasks_mm(whole_kernel.analysis)
    own = printer(whole_kernel)
    different: list[tuple[str, bytes, bytes]] = []
    compared = 0
    for pid, expected in truth.items():
        got = b"".join(own.lines(mms[int(pid)])) if mms[int(pid)] else b""
        assert len(areas(got)) == len(areas(expected))
        for area, other in zip(areas(got), areas(expected), strict=True):
            compared += 1
            if area != other:
                pairs = zip(area.split(b"\n"), other.split(b"\n"), strict=True)
                different += [(pid, line, wanted) for line, wanted in pairs if line != wanted]
    moved = [one for one in different if one[1].split(b":")[0].decode() in MOVING]
    assert [one for one in different if one not in moved] == []
    assert len(moved) <= MOST_MOVED
    assert compared > 6000


def test_what_an_excerpt_prints_is_what_the_guest_read(sample: Sample) -> None:
    # An excerpt may lack settings that smaps depends on: lines may be missing then, but none is wrong.
    truth, mms = smaps_truth(sample), tasks_mm(sample.analysis)
    own = printer(sample)
    wrong, left_out, compared = [], set(), 0
    for pid, expected in truth.items():
        got = b"".join(own.lines(mms[int(pid)])) if mms[int(pid)] else b""
        for parsed, other in zip(map(fields, areas(got)), map(fields, areas(expected)), strict=True):
            compared += 1
            left_out |= other.keys() - parsed.keys()
            wrong += [
                (pid, name, line) for name, line in parsed.items() if line != other.get(name) and name not in MOVING
            ]
    assert wrong == []
    assert not left_out & EXACT - {"KernelPageSize", "MMUPageSize"}
    assert compared > 6000


def test_the_guests_have_vmas_with_something_in_every_line(sample: Sample) -> None:
    # Else equality would prove little. No guest maps huge pages of files on a disk.
    everything = b"".join(smaps_truth(sample).values())
    names = {hit.decode() for hit in re.findall(rb"(?m)^(\w+): +[1-9]", everything)}
    assert (EXACT | {"Referenced", "THPeligible"}) - names <= {"FilePmdMapped", "VmFlags"}


def test_every_vma_could_be_told(sample: Sample) -> None:
    rows = smaps_of(sample.analysis.kernel, sample.analysis.views)
    assert rows.known.all()
    assert all((values >= 0).all() for values in rows.columns().values())


def test_figures_are_left_out_where_a_struct_page_is_not_in_the_dump(sample: Sample) -> None:
    clean = sample.analysis
    view = clean.views.page_tables
    assert view is not None
    entry = np.flatnonzero((view.ptes.page_row >= 0) & (view.ptes.level == 1))[0]
    readable = view.pages.ok.copy()
    readable[view.ptes.page_row[entry]] = False
    broken = dataclasses.replace(view, pages=view.pages.replace(ok=readable))
    views = dataclasses.replace(clean.views, page_tables=broken)
    own = SmapsPrinter(clean.kernel, views)
    mm = int(views.mms.mm[view.ptes.mm_row[entry]])
    start = int(views.vmas.start[view.ranges.vma_row[view.ptes.range_row[entry]]])
    assert own.unknown(mm) >= 1
    (area,) = (parsed for parsed in map(fields, own.lines(mm)) if parsed[""].startswith(f"{start:08x}-".encode()))
    assert "Rss" not in area
    assert {"Size", "VmFlags"} <= area.keys()


def test_letters_without_the_kernels_own_table_are_the_same(whole_kernel: Sample) -> None:
    kernel = whole_kernel.analysis.kernel
    own = letters(kernel)

    class Without:
        def find(self, name: str) -> list[int]:
            return []

        def get(self, name: str) -> int | None:
            return None

    bare = kernel_on(kernel, kernel.memory)
    bare.symbols = Without()  # type: ignore[assignment]
    vmas = whole_kernel.analysis.views.vmas
    used = int(np.bitwise_or.reduce(vmas.flags))
    guessed = letters(bare)
    assert [own[bit] for bit in range(64) if used >> bit & 1] == [guessed[bit] for bit in range(64) if used >> bit & 1]
    assert own[:4] == ["rd", "wr", "ex", "sh"]


def test_swap_is_counted_as_the_kernel_counts_it(sample: Sample) -> None:
    kernel, view = sample.analysis.kernel, sample.analysis.views.page_tables
    assert view is not None
    ptes = view.ptes
    rows = np.flatnonzero((ptes.state == PteState.SWAP) & (ptes.level == 1))
    holders = swap_holders(kernel, view.entries)
    told = swap_counts(kernel, ptes.entry[rows], holders)
    bare = kernel_on(kernel, kernel.memory)
    bare.symbols = type("Without", (), {"get": lambda self, name: None})()
    assert len(rows) > 0
    assert told.tolist() == swap_counts(bare, ptes.entry[rows], holders).tolist()
    # No guest has a swapped page in two page tables: give one entry's place to its neighbour.
    entry = ptes.entry.copy()
    entry[rows[1]] = entry[rows[0]] ^ np.uint64(1 << 3)  # bits below the offset do not matter
    holders = swap_holders(bare, KeptEntries(view.arch, ptes.replace(entry=entry)))
    both = swap_counts(bare, entry[rows], holders)
    assert both[:2].tolist() == [2, 2]
    assert (both[2:] == 1).all()


def test_a_page_cache_that_leads_into_itself_does_not_hang(sample: Sample) -> None:
    clean = sample.analysis
    assert clean.views.files is not None
    edit = Edit(clean)
    kernel = clean.kernel
    mappings = np.unique(clean.views.files.rows.mapping)
    heads, _ = kernel.gather_member("address_space", "i_pages.xa_head", mappings)
    nodes = [head - 2 for head in heads.tolist() if head & 3 == 2 and head > 4096]
    changed = 0
    for node in nodes:
        try:
            edit.put(node + kernel.offset("xa_node", "slots"), node + 2)
            changed += 1
        except AssertionError:
            continue
    if not changed:
        pytest.skip("no node of a page cache is in this image")
    smaps_of(kernel_on(kernel, edit.overlay), clean.views)
