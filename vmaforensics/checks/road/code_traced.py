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

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.checks.finding import Evidence, Severity
from vmaforensics.checks.road.places import CODE, bounded_evidence, function, holders, whose
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
    from vmaforensics.columns.types import U64
    from vmaforensics.views.road.road import RoadView

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


class _Told(NamedTuple):
    severity: Severity
    owner: str
    evidence: Evidence


def check(context: Context) -> Iterator[Finding]:
    """A finding for each severity and owner."""
    road = context.views.road
    if road is None:
        return
    found: dict[tuple[Severity, str], list[Evidence]] = {}
    for told in (*_tracers(road), *_replaced(road), *_programs(context, road)):
        found.setdefault((told.severity, told.owner), []).append(told.evidence)
    for (severity, _), evidence in found.items():
        more = "" if len(evidence) == 1 else f", and {len(evidence) - 1} more"
        at = evidence[0].address
        yield context.finding(
            RULE, 0, f"{evidence[0].what}{more}", bounded_evidence(evidence), bounds=(at, at + 1), severity=severity
        )


def _tracers(road: RoadView) -> Iterator[_Told]:
    """Every ftrace_ops, but for those of kprobes."""
    ops, traced = road.tracers.ops, road.tracers.traced
    for row in range(len(ops)):
        name = road.symbols.name(int(ops.ops[row]))
        enabled = bool(ops.flags[row] & np.uint64(OpsFlag.ENABLED))
        if name in _KPROBES or (not ops.linked[row] and not enabled):
            continue
        at = traced.ip[traced.ops == row]
        owner = Owner(int(road.owners.of(ops.func[row : row + 1])[0]))
        called = whose(road, int(ops.func[row]))
        if ops.direct[row]:  # its function only hands on to a trampoline
            owner = Owner(int(road.owners.of(ops.direct[row : row + 1])[0]))
            called = whose(road, int(ops.direct[row]))
        if not ops.linked[row]:
            severity, what = Severity.HIGH, f"the tracer {called} is on, and on no list"
        else:
            severity = _severity(road, owner, at, everything=bool(ops.everything[row]))
            what = f"{called} is called at the entries of {_in_words(road, at, everything=bool(ops.everything[row]))}"
        evidence = Evidence(
            what=what,
            view=CODE,
            address=int(ops.ops[row]),
            found=f"{int(ops.func[row]):#x}, flags {int(ops.flags[row]):#x}",
        )
        yield _Told(severity, called if owner is Owner.MODULE else owner.text, evidence)


def _severity(road: RoadView, owner: Owner, at: U64, *, everything: bool) -> Severity:
    if owner in (Owner.NOBODY, Owner.UNLISTED):
        return Severity.HIGH
    if owner is Owner.MODULE and road.functions.show(at).any():
        return Severity.MEDIUM
    return Severity.LOW if everything or road.functions.have(at).any() else Severity.INFO


def _in_words(road: RoadView, at: U64, *, everything: bool) -> str:
    if everything:
        return "all functions"
    mine = at[np.argsort(~road.functions.have(at), kind="stable")]
    names = [function(road, place).split("+", 1)[0] for place in mine[:_NAMED].tolist()]
    rest = len(at) - len(names)
    return ", ".join(names) + (f" and {counted(rest, 'more function')}" if rest else "") if names else "no function"


def _replaced(road: RoadView) -> Iterator[_Told]:
    """Every function that a live patch replaces."""
    rows = road.replaced
    for row in range(len(rows)):
        new = rows.new_func[row : row + 1]
        old = rows.old_func[row : row + 1]
        owner = Owner(int(road.owners.of(new)[0])) if new[0] else Owner.KERNEL
        severity = _severity(road, owner, old, everything=False)
        evidence = Evidence(
            what=f"a live patch replaces {function(road, int(old[0]))} by {whose(road, int(new[0]))}",
            view=CODE,
            address=int(rows.record[row]),
            found=f"{int(new[0]):#x}",
            expected=f"{int(old[0]):#x}",
        )
        yield _Told(severity, whose(road, int(new[0])), evidence)


def _programs(context: Context, road: RoadView) -> Iterator[_Told]:
    """Every BPF program that works on code of the kernel."""
    found = road.programs
    named = {road.symbols.name(at) for at in road.functions.start.tolist()}
    for row in range(len(found.programs)):
        kind = TYPES.get(int(found.programs.type[row]))
        if kind is None:
            continue
        prog = int(found.programs.prog[row])
        attached, name = decoded(found.attached[row]), decoded(found.names[row])
        links = found.links[found.link_programs == np.uint64(prog)].tolist()
        held = holders(context, [prog, *links])
        where = f" on {attached}" if attached else ""
        evidence = Evidence(
            what=f"BPF program {int(found.ids[row])} {name or '(no name)'} ({kind}){where}"
            + (f", held by {held}" if held else ", held by no open file"),
            view=CODE,
            address=prog,
            found=f"{int(found.programs.func[row]):#x}",
        )
        yield _Told(Severity.LOW if attached in named else Severity.INFO, "BPF", evidence)
