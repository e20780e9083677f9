"""Who has a hand in the kernel: of what is hooked, where it leads, and whose code that is.

Made of what the road has read (``views/road``), without judging it: on one machine alone a tracer's hook is nothing; of
two hundred machines, the one that has it is worth a look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.report.document.tables import columns_of_rows
from vmaforensics.views.road.bpf import TYPES
from vmaforensics.views.road.code_owners import Owner
from vmaforensics.views.road.pointers import Leads, Source
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.views.road.road import RoadView

HOOKS: Final = np.dtype(
    [
        ("kind", "O"),  # "kprobe", "tracer", "BPF program", "live patch", "pointer"
        ("place", "O"),  # what is hooked: a function, a type of event, a member of a table
        ("owner", "O"),  # whose code is called: "module NAME", "BPF NAME", "the kernel", …
        ("target", "O"),  # what is called, where it has a name
    ]
)
_MOST: Final = 1 << 12  # of one kind
# Words that hold what the kernel itself puts there.
_OWN: Final = (Leads.FUNCTION, Leads.NULL, Leads.DATA)


class Hook(NamedTuple):
    """A row of ``hooks``."""

    kind: str
    place: str
    owner: str
    target: str


def hooks_of(road: RoadView | None) -> tuple[NDArray[np.void], int]:
    """The rows of ``hooks``, each once, and how many were left out; none where the road was not read."""
    found: set[Hook] = set()
    left_out = 0
    for rows in () if road is None else (_probes(road), _tracers(road), _programs(road), _patches(road), _words(road)):
        for number, row in enumerate(rows):
            if number >= _MOST:
                left_out += 1
            else:
                found.add(row)
    ordered = sorted(found)
    return (
        columns_of_rows(
            HOOKS,
            len(ordered),
            **{name: [printable(row[at]) for row in ordered] for at, name in enumerate(Hook._fields)},
        ),
        left_out,
    )


def _probes(road: RoadView) -> Iterator[Hook]:
    for row, probe in enumerate(road.probes.probes.addr.tolist()):
        handler = int(road.probes.probes.pre_handler[row]) or int(road.probes.probes.post_handler[row])
        name = printable(road.probes.names[row]) if row < len(road.probes.names) else ""
        yield Hook("kprobe", road.symbols.name(probe), _owner(road, handler), name or _function(road, handler))


def _tracers(road: RoadView) -> Iterator[Hook]:
    ops, traced = road.tracers.ops, road.tracers.traced
    for row in range(len(ops)):
        owner, target = _owner(road, int(ops.func[row])), _function(road, int(ops.func[row]))
        if ops.everything[row]:
            yield Hook("tracer", "every function", owner, target)
        for place in traced.ip[traced.ops == row].tolist():
            yield Hook("tracer", road.symbols.name(place).partition("+")[0], owner, target)


def _programs(road: RoadView) -> Iterator[Hook]:
    found = road.programs
    for row, kind in enumerate(found.programs.type.tolist()):
        place = printable(found.attached[row]) or TYPES.get(kind, f"type {kind}")
        yield Hook("BPF program", place, f"BPF {printable(found.names[row])}".strip(), "")


def _patches(road: RoadView) -> Iterator[Hook]:
    for old, new in zip(road.replaced.old_func.tolist(), road.replaced.new_func.tolist(), strict=True):
        yield Hook("live patch", road.symbols.name(old), _owner(road, new), _function(road, new))


def _words(road: RoadView) -> Iterator[Hook]:
    """Words of tables that lead elsewhere than to the kernel's own, or to a module that has no table there.

    What maps a file works by tables of the module that its file system is.
    """
    pointers = road.pointers
    # irq_entries_start has a stub a vector, and unused ones lead to where they did when the kernel booted.
    stubs = (pointers.source == Source.VECTOR) & np.isin(pointers.leads, (Leads.INSIDE, Leads.BOOT))
    mapped = (pointers.source == Source.MAPPED) & ~pointers.alien
    foreign = (
        ~np.isin(pointers.leads, _OWN) & ~stubs & ~((pointers.modular | mapped) & (pointers.leads == Leads.MODULE))
    )
    for row in np.flatnonzero(foreign).tolist():
        source, target = Source(int(pointers.source[row])), int(pointers.target[row])
        group, word = road.groups[int(pointers.group[row])], int(pointers.word[row])
        if source == Source.PROC_ENTRY:  # its number says nothing: they are many, in no order
            place = "an entry of /proc"
        elif source in (Source.OBJECT, Source.MAPPED):  # a pointer to a table, of one object of many
            place = group.struct
        elif group.struct:
            place = f"{group.name}.{road.member(group.struct, word)}"
        else:
            place = f"{group.name}[{word}]"
        leads = Leads(int(pointers.leads[row]))
        own = leads in (Leads.OTHER, Leads.INSIDE)
        yield Hook("pointer", place, _owner(road, target, leads.text), road.symbols.name(target) if own else "")


def _owner(road: RoadView, address: int, otherwise: str = Owner.NOBODY.text) -> str:
    owner = Owner(int(road.owners.of(np.array([address], np.uint64))[0]))
    name = printable(road.owners.name(address))
    if owner == Owner.NOBODY and (module := printable(road.module_at(address))):  # its data
        return f"module {module}"
    if owner in (Owner.NOBODY, Owner.KERNEL) or not name:
        return otherwise if owner == Owner.NOBODY else owner.text
    return f"{owner.text.removeprefix('a ')} {name}"


def _function(road: RoadView, address: int) -> str:
    """The kernel's function at an address; empty for code of others."""
    return road.symbols.name(address) if road.owners.of(np.array([address], np.uint64))[0] == Owner.KERNEL else ""
