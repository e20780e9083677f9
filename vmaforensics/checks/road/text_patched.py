"""TEXT-PATCHED: kernel code was changed, and no record of the kernel's own says so.

*Compared:* what stands at every place that the kernel patches itself, with the record that says what should stand
there.

* The entry of every function that can be traced: a no-operation, unless `dyn_ftrace.flags` says that tracing is on;
  then a call to `ftrace_caller`, `ftrace_regs_caller`, the trampoline of an `ftrace_ops` on `ftrace_ops_list`, or a
  direct trampoline; and one of those on the list must ask for that function (`ftrace_update_ftrace_func`,
  kernel/trace/ftrace.c). A breakpoint needs a kprobe there.
* Every static call: `static_call_key.func` (kernel/static_call_inline.c).
* Every jump label: the target of its `jump_entry` (kernel/jump_label.c).

*Guaranteed by:* `ftrace_replace_code`, `__static_call_update` and `arch_jump_label_transform` patch code only after its
record, and put a breakpoint there while they do (`text_poke_bp`, arch/x86/kernel/alternative.c). What stands elsewhere
in the code is not compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.branches import BranchKind
from vmaforensics.checks.finding import Evidence, Severity
from vmaforensics.checks.road.places import CODE, bounded_evidence, function, whose
from vmaforensics.checks.rule import BUG, SMEAR, Rule
from vmaforensics.views.road.code_owners import Owner
from vmaforensics.views.road.sites import ENABLED, SiteKind
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.road.road import RoadView

RULE = Rule(
    id="TEXT-PATCHED",
    title="kernel code was changed behind the kernel's back",
    severity=Severity.HIGH,
    why="Whoever writes a jump over the entry of a function runs first whenever it is called, and may answer in its "
    "place. The kernel keeps a record of every patch it makes itself.",
    benign=(SMEAR, BUG, "a tracer of another kind than the kernel's own that patches code by itself"),
    attack=("T1014",),
    compares="code at the entries of functions, at static calls and jump labels with the kernel's records of patches",
    views=(View.CODE,),
    transient="while code is patched, a breakpoint stands there; bp_desc or text_poke_array says so",
    by_hand=("crash: dis -r ADDRESS", "crash: rd -8 ADDRESS 8"),
    steps=("word", "code"),
    rank=712,
    changed_by=(),
)


def check(context: Context) -> Iterator[Finding]:
    """A finding for each way in which code is not as the records say."""
    road = context.views.road
    if road is None:
        return
    found: dict[tuple[Severity, str], list[Evidence]] = {}
    for row in range(len(road.sites.sites)):
        told = _entry(road, row) if road.sites.sites.site[row] == SiteKind.ENTRY else _other(road, row)
        if told is None:
            continue
        severity, what, where = told
        unsettled = road.patching or (context.acquisition.live and where is not Owner.NOBODY)
        severity = Severity.LOW if unsettled else severity
        found.setdefault((severity, what), []).append(_evidence(road, row, what))
    for (severity, _), evidence in found.items():
        more = "" if len(evidence) == 1 else f", and {len(evidence) - 1} more"
        at = evidence[0].address
        yield context.finding(
            RULE,
            0,
            f"{evidence[0].what}{more}",
            bounded_evidence(evidence),
            bounds=(at, at + 1),
            severity=severity,
        )


def _evidence(road: RoadView, row: int, what: str) -> Evidence:
    sites = road.sites.sites
    at, kind = int(sites.at[row]), BranchKind(int(sites.kind[row]))
    stands = kind.name.lower()
    if kind in (BranchKind.CALL, BranchKind.JUMP):
        stands = f"{stands} to {int(sites.target[row]):#x}, {whose(road, int(sites.target[row]))}"
    expected = int(sites.expected[row])
    return Evidence(
        what=f"{function(road, at)}: {what}",
        view=CODE,
        address=at,
        found=stands,
        expected=f"{expected:#x}, {whose(road, expected)}" if expected else f"record {int(sites.flags[row]):#x}",
    )


def _entry(road: RoadView, row: int) -> tuple[Severity, str, Owner | None] | None:
    """What is wrong with the entry of a function; None for nothing."""
    sites = road.sites.sites
    at, target, kind = sites.at[row : row + 1], sites.target[row : row + 1], int(sites.kind[row])
    if np.isin(at, road.probes.probes.addr).any() and kind in (BranchKind.BREAKPOINT, BranchKind.JUMP):
        return None  # KPROBE tells of it
    owner = Owner(int(road.owners.of(target)[0]))
    direct = bool(np.isin(at, road.tracers.traced.ip[road.tracers.traced.ops < 0]).any())
    if direct and kind == BranchKind.JUMP and owner in (Owner.BPF, Owner.MODULE):
        return None  # a trampoline that does not return here (FTRACE_OPS_FL_JMP, 7.0)
    if kind == BranchKind.NOP:
        return Severity.MEDIUM, "tracing is on by its record, and nothing is called", owner
    if kind == BranchKind.BREAKPOINT:
        return Severity.HIGH, "a breakpoint that no kprobe and no patch under way accounts for", Owner.NOBODY
    if kind != BranchKind.CALL:
        return Severity.HIGH, f"a {'jump' if kind == BranchKind.JUMP else 'different instruction'} at the entry", owner
    on = bool(sites.flags[row] & ENABLED)
    callers = bool(np.isin(target, road.callers).any())
    made = owner in (Owner.TRAMPOLINE, Owner.BPF)
    if not (callers and owner is Owner.KERNEL) and not made and not (direct and owner is Owner.MODULE):
        return Severity.HIGH, "a call to code that ftrace does not know at the entry", owner
    if not on:
        return Severity.HIGH, "a call at the entry, and tracing is off by its record", owner
    if road.tracers.whole and not direct and not _asked_for(road, int(at[0])):
        return Severity.HIGH, "a call at the entry that nobody on the list of tracers has asked for", owner
    return None


def _asked_for(road: RoadView, at: int) -> bool:
    """Does an ftrace_ops on the list trace this function?"""
    ops, traced = road.tracers.ops, road.tracers.traced
    if (ops.linked & ops.everything).any():
        return True
    rows = traced.ops[(traced.ip == np.uint64(at)) & (traced.ops >= 0)]
    return bool(ops.linked[rows].any())


def _other(road: RoadView, row: int) -> tuple[Severity, str, Owner | None] | None:
    """What is wrong with a static call or a jump label."""
    sites = road.sites.sites
    if sites.kind[row] == BranchKind.BREAKPOINT:
        if np.isin(sites.at[row : row + 1], road.probes.probes.addr).any():
            return None
        return Severity.HIGH, "a breakpoint that no kprobe and no patch under way accounts for", Owner.NOBODY
    owner = Owner(int(road.owners.of(sites.target[row : row + 1])[0]))
    return Severity.HIGH, f"a {SiteKind(int(sites.site[row])).text} that leads elsewhere than its record says", owner
