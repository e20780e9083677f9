"""Memory that is kept without being mapped, and System V's own count of who maps it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import rules
from vmaforensics.checks.context import MOST
from vmaforensics.checks.finding import Confidence, Evidence, Severity
from vmaforensics.views.descriptors.content import Content
from vmaforensics.views.descriptors.keepers import Keeper
from vmaforensics.views.indices.entries import union_of
from vmaforensics.views.problems import Problem
from vmaforensics.views.processes.mms import Lock
from vmaforensics.views.view import View
from vmaforensics.words.amounts import counted, pages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.descriptors.handles import HandlesView
    from vmaforensics.views.vmas.vmas import Vmas

_PF_EXITING = 0x4  # include/linux/sched.h


def check_handles(context: Context) -> Iterator[Finding]:
    """MEM-UNMAPPED-CODE and SHM-ATTACH-COUNT."""
    handles = context.views.handles
    if handles is None:
        return
    # Only areas of files in memory matter here.
    wanted = np.concatenate([handles.memory_files["mapping"], handles.segments["mapping"]])
    maps = np.isin(_mappings(context, context.views.vmas), wanted[wanted != 0])
    regions = context.views.regions().values()
    union = union_of([rows[maps[rows["vma_row"]]] for rows in regions])
    vmas = context.views.vmas[union["vma_row"]]
    mapping = _mappings(context, vmas)
    yield from _unmapped_code(context, handles, mapping)
    yield from _attached(context, handles, vmas, mapping)


def _mappings(context: Context, vmas: Vmas) -> NDArray[np.uint64]:
    """The ``address_space`` that each area maps; 0 for none."""
    files = context.views.files
    if files is None or not len(files.rows):
        return np.zeros(len(vmas), np.uint64)
    return np.where(vmas["file_row"] >= 0, files.rows["mapping"][vmas["file_row"]], np.uint64(0))


def _unmapped_code(context: Context, handles: HandlesView, mapping: NDArray[np.uint64]) -> Iterator[Finding]:
    files = handles.memory_files
    pathless = files["internal"] | (files["nlink"] == 0)
    unmapped = ~files["mapped"] & ~np.isin(files["mapping"], mapping)
    code = np.isin(files["content"], (Content.ELF, Content.SCRIPT))
    for row in np.flatnonzero(pathless & unmapped & code).tolist():
        one = files[row]
        held = handles.descriptors[handles.descriptors["inode"] == one["inode"]]
        kept = handles.kept[handles.kept["inode"] == one["inode"]]
        segment = handles.segments[handles.segments["mapping"] == one["mapping"]]
        name = (handles.names[row] or b"?").decode("utf-8", "backslashreplace")
        what = Content(int(one["content"]))
        amount = pages(int(one["pages"])) if one["pages"] else f"{int(one['size'])} bytes"
        evidence = [
            Evidence(
                what=f"page {int(one['index'])} of {name} ({amount}) begins as {what.label}; i_mmap is empty",
                view=View.HANDLES.label,
                address=int(one["inode"]),
                found=f"physical {int(one['pa']):#x}",
            )
        ]
        evidence += [
            Evidence(
                what=f"descriptor {int(fd['fd'])} of process {int(fd['pid'])} keeps it",
                view=View.HANDLES.label,
                address=int(fd["slot"]),
                found=f"{int(fd['file']):#x}",
            )
            for fd in held[:MOST]
        ]
        evidence += [
            Evidence(
                what=f"{_keeper(file)} keeps it",
                view=View.HANDLES.label,
                address=int(file["slot"]),
                found=f"{int(file['file']):#x}",
            )
            for file in kept[:MOST]
        ]
        evidence += [_segment(one) for one in segment[:MOST]]
        by = (
            f"kept by descriptor {int(held['fd'][0])} of process {int(held['pid'][0])}"
            if len(held)
            else f"kept by {_keeper(kept[0])}"
            if len(kept)
            else f"kept by System V segment {int(segment['id'][0])}"
            if len(segment)
            else "kept by no descriptor that was found"
        )
        yield context.finding(
            rules.UNMAPPED_CODE,
            next((_mm_of(context, int(holders["pid"][0])) for holders in (held, kept) if len(holders)), 0),
            f"{what.label} in the memory file {name} that no area maps, {by}",
            evidence,
            severity=Severity.LOW if what is Content.SCRIPT else None,
        )


def _keeper(file: np.void) -> str:
    """What keeps a file that is in no descriptor table, and how it was reached."""
    by, fd, pid = Keeper(int(file["keeper"])).label, int(file["fd"]), int(file["pid"])
    return f"{by} (by descriptor {fd} of process {pid})"


def _segment(one: np.void) -> Evidence:
    return Evidence(
        what=f"System V segment {int(one['id'])} (key {int(one['key']) % (1 << 32):#x}) keeps it",
        view=View.HANDLES.label,
        address=int(one["segment"]),
    )


def _attached(
    context: Context,
    handles: HandlesView,
    vmas: Vmas,
    mapping: NDArray[np.uint64],
) -> Iterator[Finding]:
    segments = handles.segments[handles.segments["mapping"] != 0]
    order = np.argsort(mapping, kind="stable")
    low = np.searchsorted(mapping[order], segments["mapping"], "left")
    high = np.searchsorted(mapping[order], segments["mapping"], "right")
    whole, still = _all_read(context), _at_rest(context)
    for row in np.flatnonzero(segments["nattch"] != high - low).tolist():
        one, count = segments[row], int(high[row] - low[row])
        nattch, number = int(one["nattch"]), int(one["id"])
        if count < nattch and not whole:
            continue  # areas may be missing because they could not be read
        mine = order[low[row] : high[row]]
        evidence = [
            Evidence(
                what=f"shm_nattch of segment {number} is {nattch}, {count} areas map it",
                view=View.HANDLES.label,
                address=int(one["nattch_at"]),
                found=str(nattch),
                expected=str(count),
            )
        ]
        evidence += [
            Evidence(what=f"the {context.area(vma)}", view=View.VMA.label, address=vma)
            for vma in vmas["vma"][mine[:MOST]].tolist()
        ]
        hidden = _hidden(context, int(one["mapping"]), set(vmas["vma"][mine].tolist()))
        lacking = nattch - count
        title = (
            f"{counted(lacking, 'area')} that {'map' if lacking > 1 else 'maps'} System V segment "
            f"{number} ({pages(-(-int(one['size']) // 4096))}) {'are' if lacking > 1 else 'is'} hidden"
            if lacking > 0
            else f"System V segment {number} is mapped by {count} areas and counts {nattch}"
        )
        low_rank = not still
        # Who hides an area is known where i_mmap still has it; else, who attached last may be it.
        last = _mm_of(context, int(one["last_pid"])) or _mm_of(context, int(one["creator_pid"]))
        places = [(int(area["mm"]), int(area["start"]), int(area["end"])) for area in hidden[:MOST]]
        for mm, start, end in places if lacking > 0 and places else [(last, None, None)]:
            yield context.finding(
                rules.SHM_ATTACH,
                mm,
                title,
                evidence,
                start=start,
                end=end,
                severity=Severity.LOW if low_rank else Severity.MEDIUM if lacking < 0 else None,
                confidence=Confidence.LOW if low_rank else None,
            )


def _hidden(context: Context, mapping: int, known: set[int]) -> Vmas:
    """Areas that the i_mmap of a file leads to, of address spaces there are, and that no index has."""
    rmap = context.views.rmap
    if rmap is None:
        return context.views.vmas.take(slice(0))
    reached = rmap.file_nodes["vma"][rmap.file_nodes["tree"] == np.uint64(mapping)]
    areas = rmap.vmas[rmap.vma_rows(np.setdiff1d(reached, np.array(sorted(known), np.uint64)))]
    answer: Vmas = areas[areas["ok"] & (context.views.mm_rows(areas["mm"]) >= 0)]
    return answer


def _mm_of(context: Context, pid: int) -> int:
    """The memory map of a process, 0 for none."""
    tasks = context.views.tasks
    found = tasks["mm"][tasks["ok"] & (tasks["tgid"] == pid) & (tasks["mm"] != 0)]
    return int(found[0]) if len(found) and pid else 0


def _all_read(context: Context) -> bool:
    """Were all tasks, and all areas of all of them, read?"""
    views = context.views
    lost = np.isin(views.problems["problem"], (Problem.UNREADABLE, Problem.CUT_SHORT))
    if (lost & np.isin(views.problems["view"], (View.TASKS, View.FILES))).any() or not views.mms["ok"].all():
        return False
    return all(bool(context.decoded(view, views.mms["mm"]).all()) for view in views.regions())


def _at_rest(context: Context) -> bool:
    """Was no memory map being changed or torn down?"""
    tasks, mms = context.views.tasks, context.views.mms
    leaving = ((tasks["flags"] & _PF_EXITING) != 0) & (tasks["exit_state"] == 0)
    return not leaving.any() and not (mms["lock"] == Lock.WRITE).any()
