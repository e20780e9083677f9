"""PROC-OPS: what /proc works by leads to other code than the kernel's.

*Compared:* every pointer of the tables that lead from /proc to the areas of a process (`proc_pid_maps_operations`,
`proc_pid_maps_op` and their like: `vmaforensics/views/road/expected.py` has them all), of the entries below /proc/PID
(`tgid_base_stuff`, `tid_base_stuff`), of every inode, dentry and open file of /proc, of the tables these lead to, and
of every `proc_dir_entry`, with the functions and tables of the kernel. Where it is known which function belongs into a
member, another function of the kernel is wrong too.

*Guaranteed by:* all these tables are `const` and lie in the kernel's read-only data. `proc_pident_instantiate`
(fs/proc/base.c) copies `i_op` and `i_fop` from an entry, `do_dentry_open` (fs/open.c) copies `f_op` from the inode,
`seq_open` (fs/seq_file.c) takes the table it is given. Entries of modules lead to tables and functions of theirs
(`proc_create`, fs/proc/generic.c); the kernel's own lead to the kernel.

A whole table put in place of the kernel's, in memory of its own, shows by the object that leads to it, even where every
function but one is the right one.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Severity
from vmaforensics.checks.road.places import alike, cannot_run, pointer_evidence, told
from vmaforensics.checks.rule import BUG, Rule
from vmaforensics.views.road.pointers import Leads, Source
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import Bools
    from vmaforensics.views.road.road import RoadView

RULE = Rule(
    id="PROC-OPS",
    title="/proc works by other code than the kernel's",
    severity=Severity.HIGH,
    why="Who answers in the kernel's place when a memory map, the memory of a process or the list of processes is read "
    "decides what is shown. The records in memory stay as they were, so nothing else contradicts it.",
    benign=("a module that lets /proc files of the kernel go through its own code", BUG),
    attack=("T1014", "T1564"),
    compares="tables of functions, inodes, dentries, open files and entries of /proc with the kernel's own functions",
    views=(View.CODE,),
    transient="none: tables are constant, and the pointers to them are set once",
    by_hand=("crash: struct seq_operations proc_pid_maps_op", "crash: rd -s ADDRESS"),
    steps=("word",),
    rank=710,
    changed_by=(),
)


# What is given back when a file is closed: while a machine runs, its memory is another's before it is read. So may be
# what it leads to, but then nobody can execute what stands there.
_FLEETING = ("file", "seq_file")


def check(context: Context) -> Iterator[Finding]:
    """A finding for each table, and for each kind of object, with pointers that lead elsewhere."""
    road = context.views.road
    if road is None:
        return
    pointers = road.pointers
    wrong = np.flatnonzero(_wrong(road))
    numbers = {name: number for number, name in enumerate(dict.fromkeys(group.name for group in road.groups))}
    named = np.array([numbers[group.name] for group in road.groups], np.int64)
    doubtful = _doubtful(road)
    fleeting = np.array([group.name in _FLEETING for group in road.groups], np.bool_)[pointers.group]
    if context.acquisition.live:
        fleeting |= (pointers.source == Source.TABLE) & cannot_run(context, road, pointers.target)
    else:
        fleeting[:] = False
    for which in alike(named[pointers.group[wrong]]):
        rows = wrong[which]
        severity = Severity.MEDIUM if doubtful[rows].all() else Severity.HIGH
        severity = Severity.LOW if fleeting[rows].all() else severity
        yield told(context, RULE, rows, partial(pointer_evidence, road), severity, size=8)


def _doubtful(road: RoadView) -> Bools:
    """Entries beside processes whose table nobody knows: drivers may make one of their own."""
    pointers = road.pointers
    found: Bools = (pointers.source == Source.PROC_ENTRY) & (pointers.leads == Leads.NOWHERE)
    return found


def _wrong(road: RoadView) -> Bools:
    """Which pointers lead to what they never lead to."""
    pointers = road.pointers
    source, leads = pointers.source, pointers.leads
    unknown = (Leads.INSIDE, Leads.UNNAMED) if not road.named else ()
    fine = {
        Source.OPERATIONS: (Leads.FUNCTION, *unknown),
        Source.ENTRY: (Leads.FUNCTION, Leads.DATA, Leads.NULL, *unknown),
        # An inode that is given back has free_inode in the place of i_fop.
        Source.OBJECT: (Leads.DATA, Leads.NULL, Leads.FUNCTION, *unknown),
        Source.PROC_ENTRY: (Leads.FUNCTION, Leads.DATA, Leads.MODULE, Leads.UNLISTED, Leads.NULL, *unknown),
    }
    wrong: Bools = np.zeros(len(pointers), np.bool_)
    for kind, allowed in fine.items():
        wrong |= (source == kind) & ~np.isin(leads, allowed)
    by_modules = pointers.modular & np.isin(leads, (Leads.MODULE, Leads.UNLISTED))  # MODULE-HIDDEN tells of the latter
    own = np.isin(leads, (Leads.FUNCTION, *unknown))
    wrong |= (source == Source.TABLE) & ((~own & ~by_modules) | pointers.alien)
    return wrong
