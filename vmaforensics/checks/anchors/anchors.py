"""Addresses that the kernel remembers against the areas there are; page tables in use against processes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import rules
from vmaforensics.checks.context import MOST, comm_of
from vmaforensics.checks.finding import Confidence, Evidence, Severity
from vmaforensics.checks.vmas.coverage import Cover
from vmaforensics.views.anchors.cpus import RootOwner
from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.anchors.anchors import AnchorsView

_PAGE = 4096
_VSYSCALL = np.uint64(0xFFFFFFFF_FF600000)  # VSYSCALL_ADDR, arch/x86/include/uapi/asm/vsyscall.h
_RED_ZONE = 128  # bytes below RSP that functions may use (System V ABI)

# Columns of mms: the first byte of something, or (True) one past its last.
_BOUNDS = {
    "start_code": False,
    "end_code": True,
    "start_data": False,
    "end_data": True,
    "start_stack": False,
    "arg_start": False,
    "arg_end": True,
    "env_start": False,
    "env_end": True,
    "vdso": False,
}


def check_anchors(context: Context) -> Iterator[Finding]:
    """THREAD-OUTSIDE, HANDLER-OUTSIDE, ANCHOR-OUTSIDE, MM-EXE-UNMAPPED and CPU-CR3-UNKNOWN."""
    anchors = context.views.anchors
    yield from _programs(context)
    if anchors is None:
        return
    cover = Cover(context)
    yield from _threads(context, anchors, cover)
    yield from _handlers(context, anchors, cover)
    yield from _remembered(context, anchors, cover)
    yield from _cpus(context, anchors)


def _threads(context: Context, anchors: AnchorsView, cover: Cover) -> Iterator[Finding]:
    rows = anchors.threads[anchors.threads["user"] & cover.whole(anchors.threads["mm"])]
    page = rows["ip"] & ~np.uint64(_PAGE - 1)
    astray = ~cover.holds(rows["mm"], rows["ip"]) & (page != _VSYSCALL)
    yield from _by_gap(context, cover, rows[astray], "ip", None)

    mm, sp = rows["mm"], rows["sp"]
    # An empty stack begins at its very end, and one that has not been touched yet below its area.
    held = cover.holds(mm, sp) | cover.holds(mm, np.maximum(sp, np.uint64(1)) - np.uint64(1))
    held |= cover.may_grow_to(mm, sp, context.views.stack_guard_gap + _RED_ZONE)
    yield from _by_gap(context, cover, rows[~held & ~astray], "sp", Severity.MEDIUM)


def _by_gap(
    context: Context, cover: Cover, rows: NDArray[np.void], register: str, severity: Severity | None
) -> Iterator[Finding]:
    """One finding for each gap between areas that registers of threads lead into."""
    gap = cover.gap(rows["mm"], rows[register])
    word = context.views.anchors.place.offsets[register] if context.views.anchors else 0
    order = np.lexsort((gap, rows["mm"]))
    rows, gap = rows[order], gap[order]
    edges = np.flatnonzero((rows["mm"][1:] != rows["mm"][:-1]) | (gap[1:] != gap[:-1])) + 1
    for group in np.split(rows, edges) if len(rows) else []:
        name = {"ip": "RIP", "sp": "RSP"}[register]
        evidence = [
            Evidence(
                what=f"{'saved ' if one['registers'] else ''}{name} of thread {int(one['pid'])} is "
                f"{int(one[register]):#x}, where no area is",
                view=View.ANCHORS.label,
                address=int(one["registers"]) + word if one["registers"] else 0,
                found=f"{int(one[register]):#x}",
            )
            for one in group[:MOST]
        ]
        first = int(group[register][0])
        who = f"thread {int(group['pid'][0])}" if len(group) == 1 else f"{len(group)} threads"
        what = "code" if register == "ip" else "stack"
        title = f"{who} with {what} at {first:#x}, where no area is"
        exec_now = bool(group["in_exec"].all())
        found = context.finding(
            rules.THREAD_OUTSIDE,
            int(group["mm"][0]),
            title,
            evidence,
            start=int(group[register].min()) & -_PAGE,
            end=(int(group[register].max()) & -_PAGE) + _PAGE,
            severity=Severity.LOW if exec_now else severity,
            confidence=Confidence.LOW if exec_now else Confidence.MEDIUM if severity else None,
        )
        # The process of the thread, which in the case of a borrowed mm is not the one the mm belongs to.
        tasks = context.views.tasks
        owner = np.flatnonzero(tasks["task"] == group["task"][0])
        pid = int(group["tgid"][0])
        comm = comm_of(tasks["comm"][owner[0]]) if len(owner) and pid != found.pid else found.comm
        yield replace(found, pid=pid, comm=comm)


def _handlers(context: Context, anchors: AnchorsView, cover: Cover) -> Iterator[Finding]:
    rows = anchors.handlers[cover.whole(anchors.handlers["mm"])]
    columns = [rows["handler"], rows["restorer"]]
    address = np.concatenate(columns)
    which = np.tile(np.arange(len(rows)), 2)
    outside = ~cover.holds(rows["mm"][which], address) & (address != 0)
    at, address = which[outside], address[outside]
    is_handler = np.flatnonzero(outside) < len(rows)

    def evidence(row: int) -> Evidence:
        one = rows[at[row]]
        what = "handler" if is_handler[row] else "restorer"
        return Evidence(
            what=f"the {what} of signal {int(one['signal'])} is at {int(address[row]):#x}, where no area is",
            view=View.ANCHORS.label,
            address=int(one["where"]),
            found=f"{int(address[row]):#x}",
        )

    def title(row: int) -> str:
        return f"handler of signal {int(rows[at[row]]['signal'])} at {int(address[row]):#x} lies in no area"

    yield from context.per_mm(rules.HANDLER_OUTSIDE, rows["mm"][at], evidence, title)


def _remembered(context: Context, anchors: AnchorsView, cover: Cover) -> Iterator[Finding]:
    mms, offsets = context.views.mms, context.views.mm_offsets
    parts: list[tuple[str, NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]] = []
    for name, last in _BOUNDS.items():
        if name in offsets:
            value = mms[name]
            used = value != 0
            if last:  # an empty range has no last byte
                used &= value > mms[_BEGINS[name]]
            shown = value - np.uint64(1) if last else value
            parts.append((name, mms["mm"][used], shown[used], mms["mm"][used] + np.uint64(offsets[name])))
    heap = mms["brk"] > mms["start_brk"]
    parts.append(("brk", mms["mm"][heap], mms["brk"][heap] - np.uint64(1), mms["mm"][heap] + np.uint64(offsets["brk"])))
    for name, values in anchors.mms.auxv_values().items():
        used = anchors.mms.ok & (values != 0)
        parts.append((f"AT_{name.upper()}", anchors.mms.mm[used], values[used], anchors.mms.auxv[used]))
    for name, values in anchors.threads.pointers(context.views.arch.thread_pointer.name).items():
        used = values != 0
        parts.append((f"{name} of a thread", anchors.threads.mm[used], values[used], anchors.threads.task[used]))
    labels = [name for name, *_ in parts]
    label = np.repeat(np.arange(len(parts)), [len(part[1]) for part in parts])
    mm, value, where = (np.concatenate([part[column] for part in parts]) for column in (1, 2, 3))
    outside = np.flatnonzero(cover.whole(mm) & ~cover.holds(mm, value))
    yield from context.per_mm(
        rules.ANCHOR_OUTSIDE,
        mm[outside],
        lambda row: Evidence(
            what=f"{labels[label[outside[row]]]} names {int(value[outside[row]]):#x}, where no area is",
            view=View.ANCHORS.label,
            address=int(where[outside[row]]),
            found=f"{int(value[outside[row]]):#x}",
        ),
        lambda row: f"{labels[label[outside[row]]]} is {int(value[outside[row]]):#x}, where no area is",
    )


_BEGINS = {"end_code": "start_code", "end_data": "start_data", "arg_end": "arg_start", "env_end": "env_start"}


def _programs(context: Context) -> Iterator[Finding]:
    """Is the program file mapped? Compared by inode: an overlay shows one file as several."""
    views = context.views
    files = views.files
    if files is None or not len(files.rows):
        return
    rows = views.regions()[context.index]
    file_row = views.vmas["file_row"][views.vma_rows(rows["vma"])]
    mapped = file_row >= 0
    owner = views.mm_rows(rows["mm"][mapped])
    exe = files.rows_of(views.mms["exe_file"])
    sound = (exe >= 0) & files.rows["ok"][exe] & context.decoded(context.index, views.mms["mm"]) & views.mms["ok"]
    same = files.rows["inode"][file_row[mapped]] == files.rows["inode"][exe[owner]]
    if views.anchors is not None:
        same |= files.rows["file"][file_row[mapped]] == views.anchors.mms["exe_private"][owner]
    found = np.zeros(len(views.mms), np.bool_)
    found[owner[same & (owner >= 0)]] = True
    unread = np.zeros(len(views.mms), np.bool_)
    unread[owner[~files.rows["ok"][file_row[mapped]]]] = True
    lost = np.flatnonzero(sound & ~found & ~unread)

    def name(row: int) -> str:
        path = files.paths[int(exe[lost[row]])]
        return (path or b"unknown").decode("utf-8", "backslashreplace")

    yield from context.per_mm(
        rules.EXE_UNMAPPED,
        views.mms["mm"][lost],
        lambda row: Evidence(
            what=f"exe_file is {name(row)}, no area maps it",
            view=View.ANCHORS.label,
            address=int(views.mms["mm"][lost[row]]) + views.mm_offsets.get("exe_file", 0),
            found=f"{int(views.mms['exe_file'][lost[row]]):#x}",
        ),
        lambda row: f"no area maps the program file {name(row)}",
    )


def _cpus(context: Context, anchors: AnchorsView) -> Iterator[Finding]:
    problems = context.views.problems
    lost = np.isin(problems["problem"], (Problem.UNREADABLE, Problem.CUT_SHORT))
    partial = bool((lost & (problems["view"] == View.TASKS)).any()) or not context.views.mms["ok"].all()
    if partial:  # the mm that a CPU runs on may be one that was lost
        return
    suspect = np.isin(anchors.cpus["owner"], (RootOwner.UNKNOWN, RootOwner.TASKLESS))
    for one in anchors.cpus[suspect]:
        cpu, cr3 = int(one["cpu"]), int(one["table_register"])
        evidence = [
            Evidence(what=f"CR3 of CPU {cpu} is {cr3:#x}", view=View.ANCHORS.label, address=0, found=f"{cr3:#x}")
        ]
        title = f"CPU {cpu} runs on page tables at physical {int(one['root']):#x}, which are no process's"
        if one["loaded_mm"]:
            text = f"cpu_tlbstate.loaded_mm of CPU {cpu} is {int(one['loaded_mm']):#x}"
            evidence.append(Evidence(what=text, view=View.ANCHORS.label, address=int(one["loaded_from"]), found=""))
        if one["owner"] == RootOwner.TASKLESS:
            title = f"CPU {cpu} runs on the memory map {int(one['mm']):#x}, which has users and no task"
        yield context.finding(
            rules.CR3_UNKNOWN,
            int(one["mm"]),
            title,
            evidence,
        )
