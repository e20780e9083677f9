"""MODULE-HIDDEN: a module is loaded that a list of modules leaves out.

*Compared:* the list `modules` (which `/proc/modules` and `lsmod` show), the tree by address (`mod_tree`, which stack
traces and faults ask), `/sys/module` (`module_kset`), and every `struct module` that names itself in vmalloc memory
whose executable pages nobody owns.

*Guaranteed by:* `load_module` (kernel/module/main.c) puts a module on the list and into the tree at once
(`add_unformed_module`), under `module_mutex`; `free_module` marks it `MODULE_STATE_UNFORMED` before it takes it off
both. A module that is live is on all three. One that says it is unformed is left out by `/proc/modules`; it has no
place in `/sys/module` then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.context import MOST
from vmaforensics.checks.finding import Evidence, Severity
from vmaforensics.checks.road.places import CODE
from vmaforensics.checks.rule import BUG, SMEAR, Rule
from vmaforensics.views.road.code_owners import Owner
from vmaforensics.views.system.modules import STATES, UNFORMED
from vmaforensics.views.view import View
from vmaforensics.words.amounts import counted
from vmaforensics.words.printable import decoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.road.road import RoadView

RULE = Rule(
    id="MODULE-HIDDEN",
    title="a module is loaded that a list of modules leaves out",
    severity=Severity.HIGH,
    why="A module that lsmod does not show runs with the kernel's own power. Rootkits take themselves off the list "
    "first.",
    benign=(SMEAR, BUG, "a module that is being loaded or unloaded at that moment"),
    attack=("T1014", "T1564"),
    compares="the list of modules, the tree of modules by address, /sys/module, and memory that looks like a module's",
    views=(View.CODE,),
    transient="while a module is loaded or unloaded its state says so: unformed, coming or going",
    by_hand=("crash: mod", "crash: struct module.name,state,list ADDRESS"),
    steps=("modules", "word"),
    rank=700,
    changed_by=(),
)

_LIVE = 0  # MODULE_STATE_LIVE


def check(context: Context) -> Iterator[Finding]:
    """A finding for each module that one of the records does not have."""
    road = context.views.road
    if road is None:
        return
    loaded, modules = road.loaded, road.loaded.modules
    credible, code = modules.credible(), _unlisted_code(road)
    for row in range(len(modules)):
        live = int(modules.state[row]) == _LIVE
        missing = []
        if not modules.listed[row] and loaded.list_whole:
            missing.append("the list of modules")
        if not modules.in_tree[row] and loaded.tree_whole:
            missing.append("the tree of modules by address")
        if not modules.in_sysfs[row] and loaded.sysfs_whole and live:
            missing.append("/sys/module")
        forged = int(modules.state[row]) == UNFORMED and bool(modules.in_sysfs[row])
        if not credible[row] or not (missing or forged):
            continue
        if not modules.listed[row] or not modules.in_tree[row] or forged:
            severity = Severity.HIGH if live or forged else Severity.LOW
        else:
            severity = Severity.MEDIUM
        severity = Severity.LOW if _may_be_smear(context, road, row) else severity
        yield _finding(context, road, row, missing, code.get(modules.name_of(row), []), severity)


def _may_be_smear(context: Context, road: RoadView, row: int) -> bool:
    """Was the image taken while the machine ran, and does the module itself not say that it was taken off the list?"""
    if not context.acquisition.live:
        return False
    after = int(road.loaded.modules.after[row])
    arch = context.views.arch
    unlinked = not arch.kernel_pointer(np.array([after], np.uint64))[0] or after == road.link_of(row)
    return not (unlinked and int(road.loaded.modules.state[row]) == _LIVE)


def _finding(
    context: Context, road: RoadView, row: int, missing: list[str], code: list[int], severity: Severity
) -> Finding:
    modules = road.loaded.modules
    name, at, state = decoded(modules.name_of(row)), int(modules.module[row]), STATES[int(modules.state[row])]
    known = [
        what
        for has, what in (
            (modules.listed[row], "the list of modules"),
            (modules.in_tree[row], "the tree of modules by address"),
            (modules.in_sysfs[row], "/sys/module"),
        )
        if has
    ]
    evidence = [
        Evidence(
            what=f"struct module of {name}, state {state}: known to {' and '.join(known) or 'none of the records'}",
            view=CODE,
            address=at,
            found=" and ".join(known),
            expected="the list of modules, the tree of modules by address and /sys/module",
        ),
        *_code(road, code),
    ]
    what = (
        f"module {name} ({state}) is not in {' nor in '.join(missing)}"
        if missing
        else (f"module {name} says that it is not formed yet, and is in /sys/module")
    )
    return context.finding(RULE, 0, what, evidence, bounds=(at, at + 1), severity=severity)


def _unlisted_code(road: RoadView) -> dict[bytes, list[int]]:
    """Rows of the ranges of code of modules that are not on the list, by the name of the module."""
    found: dict[bytes, list[int]] = {}
    ranges = road.owners.ranges
    for place in np.flatnonzero(ranges.owner == Owner.UNLISTED).tolist():
        found.setdefault(road.owners.names[int(ranges.name[place])], []).append(place)
    return found


def _code(road: RoadView, places: list[int]) -> Iterator[Evidence]:
    """Where the code of a module lies, by rows of the ranges of code."""
    ranges = road.owners.ranges
    for place in places[:MOST]:
        start, end = int(ranges.start[place]), int(ranges.end[place])
        yield Evidence(what=f"its code: {start:#x}-{end:#x}, {counted(end - start, 'byte')}", view=CODE, address=start)
