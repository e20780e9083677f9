"""KPROBE: a kprobe runs code of its own inside of the kernel.

*Compared:* every kprobe of `kprobe_table`: where it is set, and whose code its handlers are. One that tracefs or perf
has set runs the kernel's own handler (`kprobe_dispatcher`), which may hand on to a BPF program; the handler of a module
may do anything, a return into the caller with another result included. Which functions of the road a kprobe is set on
decides how much that matters.

*Guaranteed by:* `register_kprobe` (kernel/kprobes.c) puts every probe into the table before it arms it. Probes that
share a place hang on one that stands for them all; each of them is told of.

A handler in memory that nobody owns, or of a module that is not on the list, is high; one of a module on the list is
medium on a function that puts areas into words, low elsewhere on the road; what the kernel's own tracers run is low on
the road. Beside the road all are information.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence, Severity
from vmaforensics.checks.road.places import CODE, FOREIGN, bounded_evidence, function, holders, whose
from vmaforensics.checks.rule import BUG, Rule
from vmaforensics.views.road.code_owners import Owner
from vmaforensics.views.view import View
from vmaforensics.words.printable import decoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import U64
    from vmaforensics.views.road.road import RoadView

RULE = Rule(
    id="KPROBE",
    title="a kprobe runs code of its own inside of the kernel",
    severity=Severity.LOW,
    why="A kprobe sees, and from a module changes, what a function of the kernel works on: one on what prints memory "
    "maps can leave out an area, while every record in memory stays as it was.",
    benign=("a tracing tool (perf, bpftrace, SystemTap, kprobe_events of tracefs)", "a security agent", BUG),
    attack=("T1014",),
    compares="kprobe_table and the handlers of each kprobe with the code of the kernel and of its modules",
    views=(View.CODE,),
    transient="none: a probe is in the table before it is armed",
    by_hand=("crash: p kprobe_table", "crash: struct kprobe ADDRESS"),
    steps=("kprobe",),
    rank=720,
    changed_by=(),
)


def check(context: Context) -> Iterator[Finding]:
    """A finding for each severity and owner of handlers."""
    road = context.views.road
    if road is None:
        return
    found: dict[tuple[Severity, str], list[Evidence]] = {}
    for row in range(len(road.probes.probes)):
        severity, owner = _judged(road, row)
        found.setdefault((severity, owner), []).append(_evidence(context, road, row, owner))
    for (severity, _), evidence in found.items():
        more = "" if len(evidence) == 1 else f", and {len(evidence) - 1} more"
        at = evidence[0].address
        title = f"{evidence[0].what}{more}"
        yield context.finding(RULE, 0, title, bounded_evidence(evidence), bounds=(at, at + 1), severity=severity)


def _handlers(road: RoadView, row: int) -> U64:
    probes = road.probes.probes
    both = [int(probes.pre_handler[row]), int(probes.post_handler[row])]
    return np.array([handler for handler in both if handler], np.uint64)


def _judged(road: RoadView, row: int) -> tuple[Severity, str]:
    """How much a probe matters, and whose handlers it has."""
    probes = road.probes.probes
    at = probes.addr[row : row + 1]
    handlers = _handlers(road, row)
    owners = road.owners.of(handlers)
    on_road, shows = bool(road.functions.have(at)[0]), bool(road.functions.show(at)[0])
    if np.isin(owners, FOREIGN).any():
        worst = int(handlers[np.isin(owners, FOREIGN)][0])
        return Severity.HIGH, whose(road, worst)
    if (owners == Owner.MODULE).any():
        name = decoded(road.owners.name(int(handlers[owners == Owner.MODULE][0])))
        severity = Severity.MEDIUM if shows else Severity.LOW if on_road else Severity.INFO
        return severity, f"module {name}"
    own = "tracefs or perf" if road.probes.names[row] else "the kernel"
    return (Severity.LOW if on_road else Severity.INFO), own


def _evidence(context: Context, road: RoadView, row: int, owner: str) -> Evidence:
    probes = road.probes.probes
    at = int(probes.addr[row])
    name = decoded(road.probes.names[row])
    held = holders(context, [int(road.probes.calls[row])]) if road.probes.calls[row] else ""
    handlers = ", ".join(
        f"{int(handler):#x} ({whose(road, int(handler))})" for handler in _handlers(road, row).tolist()
    )
    return Evidence(
        what=f"kprobe{f' {name}' if name else ''} on {function(road, at)}, of {owner}" + (f", {held}" if held else ""),
        view=CODE,
        address=int(probes.probe[row]),
        found=handlers,
    )
