"""CODE-TRACED: functions of the kernel are traced, replaced or watched by BPF.

*Compared:* every `ftrace_ops` on `ftrace_ops_list` (function tracers, live patches, trampolines of BPF), every
function that a live patch replaces (`klp_patches`), and every BPF program that works on the kernel's code (`prog_idr`:
tracing, kprobe, tracepoint, LSM …): whose code is called, and on which functions. Of programs, those who hold them open
are named.

*Guaranteed by:* `register_ftrace_function`, `klp_enable_patch` and `bpf_prog_load` put what they register into these
lists, which the kernel itself goes by. An `ftrace_ops` that is enabled, has a trampoline and is on no list was taken
off by hand: `ftrace_shutdown` disables it first.

Foreign code is high; a module that was given functions which put areas into words is medium; whatever else touches the
road is low, with its owner. A program that the kernel calls cannot change kernel memory, but can see it, and with
`bpf_override_return` or `bpf_probe_write_user` change what a reader gets.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.checks.finding import Evidence, Severity
from vmaforensics.checks.road.places import CODE, FOREIGN, alike, function, holders, told, whose
from vmaforensics.checks.rule import BUG, Rule
from vmaforensics.views.road.bpf import TYPES
from vmaforensics.views.road.code_owners import Owner
from vmaforensics.views.road.tracers import OpsFlag
from vmaforensics.views.view import View
from vmaforensics.words.amounts import counted
from vmaforensics.words.printable import decoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import I32, I64, U8, U64, Bools
    from vmaforensics.views.road.road import RoadView
    from vmaforensics.views.road.tracers import Ops

RULE = Rule(
    id="CODE-TRACED",
    title="functions of the kernel are traced, replaced or watched",
    severity=Severity.LOW,
    why="Who is called at the entry of a function sees its arguments, and may change what it does: one on what prints "
    "memory maps can leave out an area, while every record in memory stays as it was.",
    benign=("a tracing tool (tracefs, perf, bpftrace)", "a live patch", "a security agent that uses BPF", BUG),
    attack=("T1014",),
    compares="ftrace_ops_list, klp_patches and prog_idr with the code of the kernel and of its modules",
    views=(View.CODE,),
    transient="none: what is called is on the list first",
    by_hand=("crash: list -o ftrace_ops.next -s ftrace_ops.func,flags -h <ftrace_ops_list>", "crash: bpf -p"),
    steps=("word",),
    rank=721,
    changed_by=(),
)

_KPROBES: Final = ("kprobe_ftrace_ops", "kprobe_ipmodify_ops")  # KPROBE tells of these
_NAMED: Final = 4  # functions named of one tracer
_SEVERITIES: Final = (Severity.HIGH, Severity.MEDIUM, Severity.LOW, Severity.INFO)


def check(context: Context) -> Iterator[Finding]:
    """A finding for each severity and owner, of tracers, of live patches and of programs."""
    road = context.views.road
    if road is None:
        return
    for judged, say in (
        (_tracers(road), partial(_tracer, road)),
        (_live_patches(road), partial(_live_patch, road)),
        (_programs(road), partial(_program, context, road)),
    ):
        for among in alike(judged.severity, judged.owner, judged.name):
            severity = _SEVERITIES[int(judged.severity[among[0]])]
            yield told(context, RULE, judged.row[among], say, severity)


class _Judged(NamedTuple):
    """What there is to tell, how much it matters, and whose code it is; arrays of one length."""

    row: I64
    severity: I64  # place in _SEVERITIES
    owner: U8  # Owner
    name: I32  # place in the names of code, of modules; -1


def _judge(road: RoadView, row: I64, called: U64, shows: Bools, on_road: Bools) -> _Judged:
    """``called`` is the code of each, ``shows`` and ``on_road`` whether it works on functions that are."""
    owner = road.owners.of(called)
    module = owner == Owner.MODULE
    severity = np.select(
        [np.isin(owner, FOREIGN), module & shows, on_road],
        [_SEVERITIES.index(found) for found in (Severity.HIGH, Severity.MEDIUM, Severity.LOW)],
        _SEVERITIES.index(Severity.INFO),
    )
    return _Judged(row, severity, owner, np.where(module, road.owners.places(called), np.int32(-1)))


def _called(ops: Ops) -> U64:
    """Whose code each ftrace_ops is for: the function of one with a direct call only hands on to a trampoline."""
    found: U64 = np.where(ops.direct != 0, ops.direct, ops.func)
    return found


def _tracers(road: RoadView) -> _Judged:
    """Every ftrace_ops, but for those of kprobes."""
    ops, traced = road.tracers.ops, road.tracers.traced
    of_kprobes = np.array([road.symbols.name(at) in _KPROBES for at in ops.ops.tolist()], np.bool_)
    unlinked = ~ops.linked & ((ops.flags & np.uint64(OpsFlag.ENABLED)) != 0)
    row = np.flatnonzero(~of_kprobes & (ops.linked | unlinked))
    shows, on_road = np.zeros(len(ops), np.bool_), ops.everything.copy()
    mine = traced.take(traced.ops >= 0)
    shows[mine.ops[road.functions.show(mine.ip)]] = True
    on_road[mine.ops[road.functions.have(mine.ip)]] = True
    judged = _judge(road, row, _called(ops)[row], shows[row], on_road[row])
    severity = np.where(unlinked[row], _SEVERITIES.index(Severity.HIGH), judged.severity)
    return judged._replace(severity=severity)


def _tracer(road: RoadView, row: int) -> Evidence:
    ops, traced = road.tracers.ops, road.tracers.traced
    called = whose(road, int(_called(ops)[row]))
    if not ops.linked[row]:
        what = f"the tracer {called} is on, and on no list"
    else:
        functions = _in_words(road, traced.ip[traced.ops == row], everything=bool(ops.everything[row]))
        what = f"{called} is called at the entries of {functions}"
    return Evidence(
        what=what,
        view=CODE,
        address=int(ops.ops[row]),
        found=f"{int(ops.func[row]):#x}, flags {int(ops.flags[row]):#x}",
    )


def _in_words(road: RoadView, at: U64, *, everything: bool) -> str:
    if everything:
        return "all functions"
    mine = at[np.argsort(~road.functions.have(at), kind="stable")]
    names = [function(road, place).split("+", 1)[0] for place in mine[:_NAMED].tolist()]
    rest = len(at) - len(names)
    return ", ".join(names) + (f" and {counted(rest, 'more function')}" if rest else "") if names else "no function"


def _live_patches(road: RoadView) -> _Judged:
    """Every function that a live patch replaces. One without a new function leaves out what it is called for."""
    rows = road.replaced
    called: U64 = np.where(rows.new_func != 0, rows.new_func, rows.old_func)
    shows, on_road = road.functions.show(rows.old_func), road.functions.have(rows.old_func)
    return _judge(road, np.arange(len(rows)), called, shows, on_road)


def _live_patch(road: RoadView, row: int) -> Evidence:
    old, new = int(road.replaced.old_func[row]), int(road.replaced.new_func[row])
    return Evidence(
        what=f"a live patch replaces {function(road, old)} by {whose(road, new) if new else 'nothing'}",
        view=CODE,
        address=int(road.replaced.record[row]),
        found=f"{new:#x}",
        expected=f"{old:#x}",
    )


def _programs(road: RoadView) -> _Judged:
    """Every BPF program that works on code of the kernel."""
    found = road.programs
    named = {road.symbols.name(at).encode() for at in road.functions.start.tolist()}
    on_road = np.array([name in named for name in found.attached], np.bool_)
    row = np.flatnonzero(np.isin(found.programs.type, list(TYPES)))
    severity = np.where(on_road[row], _SEVERITIES.index(Severity.LOW), _SEVERITIES.index(Severity.INFO))
    return _Judged(row, severity, np.full(len(row), Owner.BPF, np.uint8), np.full(len(row), -1, np.int32))


def _program(context: Context, road: RoadView, row: int) -> Evidence:
    found = road.programs
    prog = int(found.programs.prog[row])
    kind, attached, name = TYPES[int(found.programs.type[row])], decoded(found.attached[row]), decoded(found.names[row])
    held = holders(context, [prog, *found.links[found.link_programs == np.uint64(prog)].tolist()])
    where = f" on {attached}" if attached else ""
    return Evidence(
        what=f"BPF program {int(found.ids[row])} {name or '(no name)'} ({kind}){where}"
        + (f", held by {held}" if held else ", held by no open file"),
        view=CODE,
        address=prog,
        found=f"{int(found.programs.func[row]):#x}",
    )
