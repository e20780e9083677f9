"""What could not be checked, and why: as prominent as the findings, for it bounds what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import PteState
from vmaforensics.columns.lookup import rows_of
from vmaforensics.columns.runs import begins_run, run_starts
from vmaforensics.report.document.acquired import torn_parts
from vmaforensics.report.document.parts import NotAssessed
from vmaforensics.views.descriptors.content import Content
from vmaforensics.views.pages.text_match import Match
from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View
from vmaforensics.words.amounts import counted
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmaforensics.analysis import Analysis
    from vmaforensics.views.views import Views

_MOST = 200  # problems named; the rest is counted

_LOST = (Problem.UNREADABLE, Problem.CUT_SHORT)


def not_assessed(analysis: Analysis) -> list[NotAssessed]:
    """Problems of the file, of finding the kernel, and of the walks, and contents that a rule needs, in that order."""
    rows: list[NotAssessed] = []
    for what, problems in (
        ("image file", analysis.image.problems),
        ("image file", analysis.image.memory.problems()),
        ("kernel", analysis.kernel.identity.problems),
        ("rules", analysis.context.failures),
    ):
        rows += _told(what, problems)
    rows += torn_parts(analysis)
    rows += _walks(analysis)
    rows += [NotAssessed(what=what, why=why, count=count) for what, count, why in _contents(analysis) if count]
    return rows


def _told(what: str, problems: Iterable[str]) -> Iterator[NotAssessed]:
    """A row for each problem, once, up to a bound."""
    told = list(dict.fromkeys(problems))
    for text in told[:_MOST]:
        yield NotAssessed(what=what, why=printable(text))
    if len(told) > _MOST:
        yield NotAssessed(what=what, why="further problems like these", count=len(told) - _MOST)


def _contents(analysis: Analysis) -> Iterator[tuple[str, int, str]]:
    """(what, how many, why): rules that look into pages, where the image does not hold these. Once for an image."""
    views = analysis.views
    if views.text is not None:
        match = views.text.pages.match
        for state, why in (
            (Match.NOT_IN_DUMP, "their contents, or those of the page cache, are not in the image"),
            (Match.NOT_CACHED, "the page cache has no such page any more"),
            (Match.NOT_INDEXED, "the index of the page cache is not in the image"),
            (Match.NOT_COMPARED, "there are more than are compared"),
        ):
            count = int((match == state).sum())
            yield (
                "modified code (TEXT-MODIFIED)",
                count,
                f"{counted(count, 'page')} in executable VMAs of files: {why}",
            )
        count = views.text.unindexed
        why = "by their own account their file's: the index of its page cache is not in the image"
        yield "modified code (TEXT-MODIFIED)", count, f"{counted(count, 'page')} {why}"
    view = views.page_tables
    if view is not None and len(view.orphans):
        present = (view.entries.take(view.orphans[: len(view.contents)]).state == PteState.PRESENT).tolist()
        lost = sum(is_present and not text for text, is_present in zip(view.contents, present, strict=True))
        lost += len(view.orphans) - len(view.contents)
        why = f"{counted(lost, 'page')}: not in the image, or more than are looked at"
        yield "contents of pages outside every VMA (PTE-ORPHAN)", lost, why
    if views.vdso is not None:
        lost = int((~views.vdso.images.images.held).sum())
        yield (
            "the kernel's own vDSO (VDSO-IMAGE)",
            lost,
            f"its code for {counted(lost, 'kind')} of programs: not in the image",
        )
    if views.identities is not None:
        names = views.identities.dentries
        lost = int(((names.pprev != 0) & ~names.chain_read).sum())
        what = "names of mapped files (DENTRY-NAME)"
        yield what, lost, f"{counted(lost, 'name')}: the chain that they are on is not in the image"
    yield from _code(views)
    yield from _frames(views)
    handles = views.handles
    if handles is not None:
        files = handles.memory_files
        unmapped = (files.internal | (files.nlink == 0)) & ~files.mapped
        for content, why in (
            (Content.NOT_IN_DUMP, "their first page is not in the image"),
            (Content.NONE, "they have no page in memory, but in swap"),
        ):
            lost = int((unmapped & (files.content == content)).sum())
            yield "code in unmapped memory files (MEM-UNMAPPED-CODE)", lost, f"{counted(lost, 'file')}: {why}"


def _code(views: Views) -> Iterator[tuple[str, int, str]]:
    """What of the kernel's own code and tables could not be read."""
    road = views.road
    if road is None:
        return
    sites = road.sites
    why = "not in the image"
    kinds = {"entries of functions": sites.entries, "static calls": sites.calls, "jump labels": sites.labels}
    lost = [name for name, count in kinds.items() if not count]
    yield "kernel code (TEXT-PATCHED)", len(lost), f"the kernel's records of {', '.join(lost)}: {why}"
    yield "kernel code (TEXT-PATCHED)", sites.unread, f"{counted(sites.unread, 'place')} that the kernel patches: {why}"
    flow, what = road.flow, "where kernel code goes on (TEXT-PATCHED)"
    yield what, flow.unread, f"{counted(flow.unread, 'page')} of code: {why}"
    lost_functions = flow.lost if flow.instructions else 0
    because = "an instruction is not known, or not in the image"
    yield what, lost_functions, f"{counted(lost_functions, 'function')}: {because}"
    what = "tables of functions (PROC-OPS, KERNEL-TABLE, VMA-OPS)"
    yield what, road.unread, f"{counted(road.unread, 'pointer')}: {why}"
    text, what = road.text, "kernel code beside its file (TEXT-PATCHED)"
    yield what, text.unread, f"{counted(text.unread, 'page')}: {why}"
    yield what, int(text.asked and not text.compared), "where the code lies, and how far it was moved, is not known"
    yield what, text.left_out, f"{counted(text.left_out, 'difference')}: more than are told one by one"
    lists = ", ".join(road.cut_short)
    yield "who has a hand in kernel code", len(road.cut_short), f"{lists}: not in the image, or without an end"
    unread = road.foreign.unread
    what = "executable kernel memory (CODE-FOREIGN)"
    yield what, unread, f"{counted(unread, 'page')} that no record has: {why}"
    more = road.foreign.left_out
    yield what, more, f"{counted(more, 'page')}: more than are looked into"


def _frames(views: Views) -> Iterator[tuple[str, int, str]]:
    """What of page frames could not be looked into."""
    view = views.frames
    if view is None:
        return
    what = "code in frames that nobody accounts for (FRAME-UNOWNED)"
    yield what, view.unread, f"{counted(view.unread, 'frame')}: not in the image"
    yield what, view.left_out, f"{counted(view.left_out, 'frame')}: more than are looked into"
    yield what, int(not view.whole), "the kernel's own page tables could not be read whole"
    why = "zones of the allocator, or some of their struct pages, are not in the image"
    yield "reserved frames (FRAME-RESERVED)", int(not view.reserved.whole), why
    unread = int((~view.unmapped.read & ~view.unmapped.passing).sum()) + view.unmapped_left_out
    why = f"{counted(unread, 'page')}: not in the image, or more than are looked at"
    yield "contents of anonymous pages that nobody maps (FRAME-HELD)", unread, why
    unread = view.buffers.unread + view.buffers.left_out
    why = f"{counted(unread, 'frame')}: not in the image, or more than are looked into"
    yield "code in buffers and in vmalloc (FRAME-HELD)", unread, why


def _walks(analysis: Analysis) -> list[NotAssessed]:
    """What the walks of records could not read, counted by record and address space."""
    mms, problems = analysis.views.mms, analysis.views.problems
    problems = problems.take(np.isin(problems.problem, _LOST))
    problems = problems.sort_by(problems.view, problems.problem, problems.mm)
    first = run_starts(begins_run(problems.view, problems.problem, problems.mm))
    counts = np.add.reduceat(problems.count, first).tolist() if len(first) else []
    mm_rows = rows_of(mms.mm, problems.mm[first]).tolist()
    parts = []
    for row, count, mm_row in list(zip(first.tolist(), counts, mm_rows, strict=True))[:_MOST]:
        label, mm = View(int(problems.view[row])).label, int(problems.mm[row])
        more = "" if count == 1 else f" (and {count - 1} more)"
        parts.append(
            NotAssessed(
                what=f"{label} of the address space {mm:#x}" if mm else label,
                why=f"{int(problems.where[row]):#x}{more}: {Problem(int(problems.problem[row])).text}",
                pid=int(mms.pid[mm_row]) if mm_row >= 0 else None,
                count=count,
            )
        )
    if len(first) > _MOST:
        rest = sum(counts[_MOST:])
        parts.append(NotAssessed(what="further records", why="not in the dump or not mapped", count=rest))
    return parts
