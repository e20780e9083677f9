"""KPROBE: a kprobe runs code of its own inside of the kernel.

*Compared:* every kprobe of `kprobe_table`: where it is set, and whose code its handlers are. One that tracefs or perf
has set runs the kernel's own handler (`kprobe_dispatcher`), which may hand on to a BPF program; the handler of a module
may do anything, a return into the caller with another result included. Which functions of the road a kprobe is set on
decides how much that matters.

*Guaranteed by:* `register_kprobe` (kernel/kprobes.c) puts every probe into the table before it arms it. Probes that
share a place hang on one that stands for them all; each of them is told of.

A handler in memory that nobody owns, or of a module that is not on the list, is high; one of a module on the list is
medium on a function that puts areas into words, low elsewhere on the road; what the kernel's own tracers run is low on
the road. Beside the road all are information. In an image that was taken while the machine ran, one whose handler
cannot be executed is low: `unregister_kprobe` gives a probe back, and the way to it was read before.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.checks.finding import Evidence, Severity
from vmaforensics.checks.road.places import CODE, FOREIGN, alike, cannot_run, function, holders, told, whose
from vmaforensics.checks.rule import BUG, Rule
from vmaforensics.views.road.code_owners import Owner
from vmaforensics.views.view import View
from vmaforensics.words.printable import decoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import I32, I64, U8, U64
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

_SEVERITIES: Final = (Severity.HIGH, Severity.MEDIUM, Severity.LOW, Severity.INFO)


def check(context: Context) -> Iterator[Finding]:
    """A finding for each severity and owner of handlers."""
    road = context.views.road
    if road is None:
        return
    judged = _judged(context, road)
    for rows in alike(judged.severity, judged.owner, judged.name):
        severity = _SEVERITIES[int(judged.severity[rows[0]])]
        yield told(context, RULE, rows, partial(_evidence, context, road, judged), severity)


class _Judged(NamedTuple):
    """How much each probe matters, and whose handlers it has; arrays of one length."""

    severity: I64  # place in _SEVERITIES
    owner: U8  # Owner of the handler that matters most
    name: I32  # its place in the names of code; of the kernel's own: 0 if tracefs or perf has set it, else 1
    handler: U64  # that one


def _judged(context: Context, road: RoadView) -> _Judged:
    probes = road.probes.probes
    shows, on_road = road.functions.show(probes.addr), road.functions.have(probes.addr)
    both = [(handler, road.owners.of(handler)) for handler in (probes.pre_handler, probes.post_handler)]
    foreign, foreign_later = ((handler != 0) & np.isin(owner, FOREIGN) for handler, owner in both)
    modular, modular_later = ((handler != 0) & (owner == Owner.MODULE) for handler, owner in both)
    later = np.where(foreign | foreign_later, ~foreign, modular_later & ~modular)
    handler: U64 = np.where(later, probes.post_handler, probes.pre_handler)
    is_foreign, is_modular = foreign | foreign_later, modular | modular_later
    plain = np.where(on_road, _SEVERITIES.index(Severity.LOW), _SEVERITIES.index(Severity.INFO))
    by_modules = np.where(shows, _SEVERITIES.index(Severity.MEDIUM), plain)
    own = ~is_foreign & ~is_modular
    severity = np.where(is_foreign, _SEVERITIES.index(Severity.HIGH), np.where(is_modular, by_modules, plain))
    if context.acquisition.live:
        gone = is_foreign & cannot_run(context, road, handler)
        severity = np.where(gone, _SEVERITIES.index(Severity.LOW), severity)
    unnamed = np.array([not name for name in road.probes.names], np.int32)
    return _Judged(
        severity=severity,
        owner=np.where(own, np.uint8(Owner.KERNEL), road.owners.of(handler)),
        name=np.where(own, unnamed, road.owners.places(handler)),
        handler=handler,
    )


def _owner(road: RoadView, judged: _Judged, row: int) -> str:
    """Whose handlers a probe has, in words."""
    if judged.owner[row] == Owner.KERNEL:
        return "tracefs or perf" if road.probes.names[row] else "the kernel"
    if judged.owner[row] == Owner.MODULE:
        return f"module {decoded(road.owners.name(int(judged.handler[row])))}"
    return whose(road, int(judged.handler[row]))


def _evidence(context: Context, road: RoadView, judged: _Judged, row: int) -> Evidence:
    probes, owner = road.probes.probes, _owner(road, judged, row)
    at = int(probes.addr[row])
    name = decoded(road.probes.names[row])
    held = holders(context, [int(road.probes.calls[row])]) if road.probes.calls[row] else ""
    both = (int(probes.pre_handler[row]), int(probes.post_handler[row]))
    handlers = ", ".join(f"{handler:#x} ({whose(road, handler)})" for handler in both if handler)
    return Evidence(
        what=f"kprobe{f' {name}' if name else ''} on {function(road, at)}, of {owner}" + (f", {held}" if held else ""),
        view=CODE,
        address=int(probes.probe[row]),
        found=handlers,
    )
