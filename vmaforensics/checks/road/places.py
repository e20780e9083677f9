"""What the rules on kernel code share: places and owners in words, and who holds what an open file stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.context import MOST
from vmaforensics.checks.finding import Evidence
from vmaforensics.columns.lookup import distinct, rows_of, sort_order
from vmaforensics.columns.runs import begins_run, run_starts
from vmaforensics.views.road.code_owners import Owner
from vmaforensics.views.road.pointers import Leads
from vmaforensics.views.view import View
from vmaforensics.words.printable import decoded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding, Severity
    from vmaforensics.checks.rule import Rule
    from vmaforensics.columns.types import I64, U64, Bools
    from vmaforensics.views.road.road import RoadView

CODE = View.CODE.label
FOREIGN = (Owner.NOBODY, Owner.UNLISTED)
_OWN_MODULE = "its own module, or one that has to do with it"
_OTHERS = (Leads.MODULE, Leads.UNLISTED, Leads.MADE)


def whose(road: RoadView, address: int) -> str:
    """An address of code in words: the function of the kernel, or whose code it is."""
    owner = Owner(int(road.owners.of(np.array([address], np.uint64))[0]))
    if owner in (Owner.KERNEL, Owner.INIT):
        return road.symbols.name(address) or owner.text
    name = decoded(road.owners.name(address))
    return f"{owner.text} ({name})" if name else owner.text


def function(road: RoadView, address: int) -> str:
    """The function that an address lies in, with the offset."""
    return road.symbols.name(address) if _in_kernel(road, address) else f"{address:#x} in {whose(road, address)}"


def word(road: RoadView, row: int) -> str:
    """What the word of a row of the pointers is: a member of a table or object, an element of an array."""
    pointers = road.pointers
    group = road.groups[int(pointers.group[row])]
    place = int(pointers.word[row])
    if "." in group.struct:
        return group.struct if group.name == group.struct.split(".", 1)[0] else f"{group.name}[{place}]"
    if not group.struct:
        return f"{group.name}[{place}]"
    return f"{group.name}.{road.member(group.struct, place)}"


def pointer_evidence(road: RoadView, row: int) -> Evidence:
    """A word that leads elsewhere than it should."""
    pointers = road.pointers
    at, target = int(pointers.at[row]), int(pointers.target[row])
    leads = Leads(int(pointers.leads[row]))
    place = int(pointers.wanted[row])
    names = road.wanted[place] if place >= 0 else ()
    led = _owner_of_code(road, target) if leads in _OTHERS else road.symbols.name(target)
    where = leads.text if not led or leads is Leads.NOWHERE else f"{leads.text}: {led}"
    return Evidence(
        what=f"{word(road, row)} leads to {where}",
        view=CODE,
        address=at,
        found=f"{target:#x}",
        expected=" or ".join(names) or (_OWN_MODULE if pointers.alien[row] else "a function of the kernel"),
    )


def told(
    context: Context, rule: Rule, rows: I64, say: Callable[[int], Evidence], severity: Severity | None, size: int = 1
) -> Finding:
    """One finding of some rows, named after the first of them, whose ``size`` bytes are its place.

    Only as many rows as evidence is listed for are put into words.
    """
    evidence = [say(row) for row in rows[:MOST].tolist()]
    first, more = evidence[0], len(rows) - 1
    if len(rows) > MOST:
        evidence.append(Evidence(what=f"and {len(rows) - MOST} more like these", view="", address=0))
    title = f"{first.what}, and {more} more" if more else first.what
    bounds = (first.address, first.address + size)
    return context.finding(rule, 0, title, evidence, bounds=bounds, severity=severity)


def cannot_run(context: Context, road: RoadView, code: U64) -> Bools:
    """Which addresses of code lie in no executable page outside of the kernel's own text, as far as is known.

    In an image that was taken while the machine ran, what leads there may be another's memory by then.
    """
    if road.foreign.left_out:
        return np.zeros(len(code), np.bool_)
    found: Bools = rows_of(road.foreign.executable.va, context.views.arch.page_bases(code)) < 0
    return found


def alike(*keys: NDArray[np.integer]) -> Iterator[I64]:
    """Rows that have all ``keys`` in common, those of the group first met first."""
    order = sort_order(*keys)
    starts = run_starts(begins_run(*(key[order] for key in keys)))
    groups = [rows for rows in np.split(order, starts[1:]) if len(rows)]
    yield from sorted(groups, key=lambda rows: int(rows[0]))


def holders(context: Context, things: Iterable[int]) -> str:
    """Who has an open file that stands for one of ``things``, in words; empty if nobody has."""
    road, handles = context.views.road, context.views.handles
    if road is None or handles is None:
        return ""
    files = road.held.file[np.isin(road.held.thing, np.array(list(things), np.uint64))]
    tasks = context.views.tasks
    found = []
    for pid in distinct(handles.descriptors.pid[np.isin(handles.descriptors.file, files)]).tolist()[:MOST]:
        row = np.flatnonzero(tasks.leader & (tasks.tgid == pid))
        name = decoded(tasks.comm[row[0]].tobytes().split(b"\0", 1)[0]) if len(row) else "?"
        found.append(f"pid {pid} ({name})")
    return ", ".join(found)


def _owner_of_code(road: RoadView, address: int) -> str:
    """Whose code is at an address, in words; of the data of a module, the module's name."""
    if road.owners.of(np.array([address], np.uint64))[0] != Owner.NOBODY:
        return whose(road, address)
    return decoded(road.module_at(address))


def _in_kernel(road: RoadView, address: int) -> bool:
    return int(road.owners.of(np.array([address], np.uint64))[0]) in (Owner.KERNEL, Owner.INIT)
