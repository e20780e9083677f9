"""TEXT-PATCHED: kernel code was changed, and no record of the kernel's own says so.

*Compared:* what stands at every place that the kernel patches itself, with the record that says what should stand
there.

* The entry of every function that can be traced: a no-operation, unless `dyn_ftrace.flags` says that tracing is on;
  then a call to `ftrace_caller`, `ftrace_regs_caller`, the trampoline of an `ftrace_ops` on `ftrace_ops_list`, or a
  direct trampoline; and one of those on the list must ask for that function (`ftrace_update_ftrace_func`,
  kernel/trace/ftrace.c). A breakpoint needs a kprobe there.
* Every static call: `static_call_key.func` (kernel/static_call_inline.c).
* Every jump label: the target of its `jump_entry` (kernel/jump_label.c).

And where code goes on: of the functions between a reader of /proc and the areas, of what leads to them and of all entry
code, every instruction; of the rest of the kernel's code, whatever goes to other executable memory. A call leads to the
beginning of a function, a jump into its own function, a part of it (`NAME.cold`) or to the beginning of another.

*Guaranteed by:* `ftrace_replace_code`, `__static_call_update` and `arch_jump_label_transform` patch code only after its
record, and put a breakpoint there while they do (`text_poke_bp`, arch/x86/kernel/alternative.c).

What leads out of the kernel's code from within is in the records above; compilers
make the rest, and the linker resolves it.

With `--vmlinux FILE`, every byte of the kernel's code is compared with the file that it was booted from. What the
kernel changes itself (relocations, alternatives, returns and retpolines, locks, static calls and their trampolines,
jump labels, entries of functions, constants known after boot) has to be one of the few forms that may stand there.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.arch.branches import BranchKind
from vmaforensics.checks.finding import Evidence, Severity
from vmaforensics.checks.road.places import CODE, FOREIGN, function, told, whose
from vmaforensics.checks.road.wrong_flow import wrong_flow
from vmaforensics.checks.rule import BUG, SMEAR, Apart, Rule
from vmaforensics.columns.lookup import distinct, is_in, values_at
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.road.code_owners import Owner
from vmaforensics.views.road.sites import ENABLED, SiteKind
from vmaforensics.views.view import View
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import U64, Bools
    from vmaforensics.views.road.road import RoadView

RULE = Rule(
    id="TEXT-PATCHED",
    title="kernel code was changed behind the kernel's back",
    severity=Severity.HIGH,
    why="Whoever writes a jump over the entry of a function runs first whenever it is called, and may answer in its "
    "place. The kernel keeps a record of every patch it makes itself.",
    benign=(SMEAR, BUG, "a tracer of another kind than the kernel's own that patches code by itself"),
    attack=("T1014",),
    compares="code at the entries of functions, at static calls and jump labels with the kernel's records of patches; "
    "where calls and jumps lead",
    views=(View.CODE,),
    transient="while code is patched, a breakpoint stands there; bp_desc or text_poke_array says so; "
    "__static_call_update changes a key before the places that call by it",
    by_hand=("crash: dis -r ADDRESS", "crash: rd -8 ADDRESS 8"),
    steps=("word", "code"),
    rank=712,
    changed_by=(),
    in_flight=(Apart(Operation.REDIRECT, 1),),  # static_call_mutex: one key at a time
)


class _Way(NamedTuple):
    """A way in which code is not as the records say."""

    rows: Bools
    severity: Severity
    what: str


def check(context: Context) -> Iterator[Finding]:
    """A finding for each way in which code is not as the records say; each place is told once."""
    road = context.views.road
    if road is None:
        return
    left = ~_accounted_for(road)
    unsettled, keys = _unsettled(context, road), _keys(road)
    for way in _ways(road):
        mine = left & way.rows
        left &= ~way.rows
        for rows, severity in (
            (np.flatnonzero(mine & ~unsettled), way.severity),
            (np.flatnonzero(mine & unsettled), Severity.LOW),
        ):
            if len(rows):
                finding = told(context, RULE, rows, partial(_evidence, road, way.what), severity)
                by_keys = bool((keys[rows] != 0).all())
                yield replace(finding, apart=len(distinct(keys[rows])) if by_keys else 0, by_others=by_keys)
    yield from wrong_flow(context, road, RULE)
    differing = np.arange(len(road.text.differing))
    if len(differing):
        yield told(context, RULE, differing, partial(_difference, context, road), Severity.HIGH)


def _unsettled(context: Context, road: RoadView) -> Bools:
    """Which places may be as they are because the kernel was about to patch them, or was just then read.

    Code that nobody owns, or of a module off the list, is not what the kernel puts anywhere.
    """
    sites = road.sites.sites
    stopped = sites.kind == BranchKind.BREAKPOINT
    foreign = np.isin(road.owners.of(sites.target), FOREIGN) & (sites.kind != BranchKind.NOP)
    found: Bools = (~foreign & (road.patching or context.acquisition.live)) | (stopped & road.patching)
    return found


def _keys(road: RoadView) -> U64:
    """The key of each static call that leads to code that somebody owns: what it led to before; 0 of other places."""
    sites = road.sites.sites
    called = (sites.site == SiteKind.STATIC_CALL) & np.isin(sites.kind, (BranchKind.CALL, BranchKind.JUMP))
    return np.where(called & ~np.isin(road.owners.of(sites.target), FOREIGN), sites.record, np.uint64(0))


def _evidence(road: RoadView, what: str, row: int) -> Evidence:
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


def _difference(context: Context, road: RoadView, row: int) -> Evidence:
    """Code that is not that of the file."""
    text = road.text
    start, end = int(text.differing.start[row]), int(text.differing.end[row])
    found, linked = text.found[row].hex(" "), text.linked[row].hex(" ")
    led = _led_to(context, text.found[row], start, road)
    more = " …" if end - start > len(text.found[row]) else ""
    return Evidence(
        what=f"{function(road, start)}: {counted(end - start, 'byte')} of code not as in the kernel's file{led}",
        view=CODE,
        address=start,
        found=found + more,
        expected=linked + more,
    )


def _led_to(context: Context, code: bytes, at: int, road: RoadView) -> str:
    """Where code leads that begins with a call or jump, in words; empty for other code."""
    size = context.views.arch.patch_size
    if len(code) < size:
        return ""
    here = context.views.arch.branches(np.frombuffer(code[:size], np.uint8)[None, :], np.array([at], np.uint64))
    leads = here.kind[0] in (BranchKind.CALL, BranchKind.JUMP)
    return f", a {BranchKind(int(here.kind[0])).name.lower()} to {whose(road, int(here.target[0]))}" if leads else ""


def _accounted_for(road: RoadView) -> Bools:
    """Which places are as some record says: those of kprobes, and calls that a tracer asked for."""
    sites, traced = road.sites.sites, road.tracers.traced
    entry = sites.site == SiteKind.ENTRY
    call, jump, stopped = (sites.kind == kind for kind in (BranchKind.CALL, BranchKind.JUMP, BranchKind.BREAKPOINT))
    owner = road.owners.of(sites.target)
    probed = is_in(sites.at, road.probes.probes.addr) & (stopped | (entry & jump))  # KPROBE tells of it
    direct = is_in(sites.at, traced.ip[traced.ops < 0])
    # A trampoline that does not return here (FTRACE_OPS_FL_JMP, 7.0).
    jumps = direct & jump & np.isin(owner, (Owner.BPF, Owner.MODULE))
    on = (sites.flags & ENABLED) != 0
    wanted = direct | _asked_for(road) | (not road.tracers.whole)
    fine: Bools = probed | (entry & (jumps | (call & _known_to_ftrace(road) & on & wanted)))
    return fine


def _known_to_ftrace(road: RoadView) -> Bools:
    """Which places lead to what calls at the entries of functions may lead to."""
    sites, traced = road.sites.sites, road.tracers.traced
    owner = road.owners.of(sites.target)
    direct = is_in(sites.at, traced.ip[traced.ops < 0])
    own = is_in(sites.target, road.callers) & (owner == Owner.KERNEL)
    made = np.isin(owner, (Owner.TRAMPOLINE, Owner.BPF))
    known: Bools = own | made | (direct & (owner == Owner.MODULE))
    return known


def _asked_for(road: RoadView) -> Bools:
    """Which places an ftrace_ops on the list traces."""
    sites, ops, traced = road.sites.sites, road.tracers.ops, road.tracers.traced
    if (ops.linked & ops.everything).any():
        return np.ones(len(sites), np.bool_)
    return is_in(sites.at, traced.ip[values_at(ops.linked, traced.ops, fill=False)])


def _ways(road: RoadView) -> Iterator[_Way]:
    """Each way, the places that no record accounts for being in the first that fits."""
    sites = road.sites.sites
    entry = sites.site == SiteKind.ENTRY
    kind = sites.kind
    high = Severity.HIGH
    stopped = "a breakpoint that no kprobe and no patch under way accounts for"
    yield _Way(kind == BranchKind.BREAKPOINT, high, stopped)
    for site in (SiteKind.STATIC_CALL, SiteKind.JUMP_LABEL):
        yield _Way(sites.site == site, high, f"a {site.text} that leads elsewhere than its record says")
    silent = "tracing is on by its record, and nothing is called"
    yield _Way(entry & (kind == BranchKind.NOP), Severity.MEDIUM, silent)
    yield _Way(entry & (kind == BranchKind.JUMP), high, "a jump at the entry")
    yield _Way(entry & (kind != BranchKind.CALL), high, "a different instruction at the entry")
    yield _Way(entry & ~_known_to_ftrace(road), high, "a call to code that ftrace does not know at the entry")
    off = (sites.flags & ENABLED) == 0
    yield _Way(entry & off, high, "a call at the entry, and tracing is off by its record")
    yield _Way(entry, high, "a call at the entry that nobody on the list of tracers has asked for")
