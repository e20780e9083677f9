"""What the registers and the stack of who died lead to.

Nothing here decides how the kernel ended: see :mod:`vmaforensics.crash.death`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import first_rows
from vmaforensics.columns.runs import begins_run, places_in_run
from vmaforensics.crash.named_values import NamedValue, address_registers, grouped
from vmaforensics.crash.patterns import FATAL, INTERRUPTING
from vmaforensics.views.objects.explain import explain
from vmaforensics.views.objects.places import Place, find_places
from vmaforensics.views.objects.surroundings import read_surroundings
from vmaforensics.views.stacks.frames import End, How

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.columns.types import I64, U64
    from vmaforensics.crash.complaints import Complaint
    from vmaforensics.crash.death import Death
    from vmaforensics.crash.stack_parts import CaseStacks
    from vmaforensics.crash.trace import TraceFrame
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.objects.explain import Meaning
    from vmaforensics.views.objects.surroundings import Surroundings

_MOST_WORDS: Final = 24  # of the stack that are shown
_SHORTLY: Final = 10 * 10**9  # ns
_DEEPEST: Final = 1 << 15  # bytes of a stack that are looked through
_LEAST_SAID: Final = 1 << 32  # %p prints what is not a pointer to be seen with as little as this
_POINTER: Final = np.uint64(8)  # what pointers are multiples of
_HEX: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{16}(?![0-9a-f])")
_ENTRIES: Final = ("pte", "pmd", "pud", "p4d", "pgd")  # page-table entries are no addresses
_MOST_PAGES: Final = 2  # struct pages of one frame: some functions keep arrays of them
# Words of a stack that say something: others are numbers, return addresses, and what the kernel's own data is.
_TELLING: Final = (Place.OBJECT, Place.PAGE, Place.POISON, Place.AREA)


class StackWord(NamedTuple):
    """A word of the stack."""

    address: int
    frame: int  # row of StacksView.frames whose function's it is
    meaning: Meaning


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointers:
    """What values of the task that died lead to."""

    cpu: int | None
    task: int | None  # task_struct of who died
    place: TraceFrame | None  # where its code was
    source: str  # of the registers, in words
    said: list[NamedValue]  # addresses in what the kernel said
    registers: list[NamedValue]
    stack: list[StackWord]


def gather_pointers(
    kernel: Kernel, stacks: CaseStacks | None, death: Death | None, complaints: Sequence[Complaint]
) -> Pointers | None:
    """Explain the registers and the stack of who died; None for a kernel that did not, or whose tasks are not known.

    ``complaints`` are all of the log.
    """
    if death is None or stacks is None:
        return None
    surroundings = read_surroundings(kernel, stacks.tasks)
    row = next(iter(stacks.of_cpu(death.cpu)), None) if death.cpu is not None else None
    mm = 0 if row is None else _mm_of(stacks, row)
    complaint = next((found for found in (death.cause, death.panic) if found and found.said.registers), None)
    source, named = _registers(kernel, stacks, death, complaint)
    registers = explain(surroundings, np.array(list(named.values()), np.uint64), mm)
    words = [] if row is None else _stack_words(surroundings, stacks, row, death, registers)
    return Pointers(
        cpu=death.cpu,
        task=None if row is None else int(stacks.view.stacks.task[row]),
        place=None if complaint is None else complaint.said.place,
        source=source,
        said=_said(surroundings, _of_death(death, complaints), mm),
        registers=grouped(named, registers),
        stack=words,
    )


def _mm_of(stacks: CaseStacks, row: int) -> int:
    """The mm of the task of a stack, also when it has given it up; 0 for kernel threads and idle tasks."""
    task = int(stacks.view.stacks.row[row])
    return 0 if task < 0 else int(stacks.tasks.mm[task]) or int(stacks.tasks.active_mm[task])


def _registers(
    kernel: Kernel, stacks: CaseStacks, death: Death, complaint: Complaint | None
) -> tuple[str, dict[str, int]]:
    """(where from, name and value): those that the log has beneath what the kernel died of; else those of the CPU."""
    source, values = "", dict[str, int]()
    if complaint is not None:
        source, values = "the log", complaint.said.registers
    else:
        for state in stacks.view.states:
            if state.cpu == death.cpu and state.words:
                source = "the notes of the dump"
                values = dict(zip(kernel.arch.register_words, state.words, strict=False))
    return source, address_registers(kernel.arch, values)


def _of_death(death: Death, complaints: Sequence[Complaint]) -> list[Complaint]:
    """The complaints that led to the death: of whoever died, shortly before."""
    last = death.panic or death.cause
    if last is None:
        return []
    return [
        complaint
        for complaint in complaints
        if complaint.caller == last.caller and complaint.row <= last.row and last.time - complaint.time <= _SHORTLY
    ]


def _said(surroundings: Surroundings, complaints: Sequence[Complaint], mm: int) -> list[NamedValue]:
    """Addresses in the first lines of ``complaints``; those of faults apart."""
    known = {complaint.said.address for complaint in complaints}
    found: dict[int, str] = {}
    for complaint in complaints:
        behind = 0
        for match in _HEX.finditer(complaint.title):
            value = int(match.group(), 16)
            label = complaint.title[behind : match.start()].rsplit(". ", 1)[-1].strip(" ,.:=()")
            behind = match.end()
            if value >= _LEAST_SAID and value not in known and label.split(" ")[-1] not in _ENTRIES:
                found.setdefault(value, label)
    meanings = explain(surroundings, np.array(list(found), np.uint64), mm)
    return [NamedValue(found[meaning.value], meaning) for meaning in meanings]


def _stack_words(
    surroundings: Surroundings, stacks: CaseStacks, row: int, death: Death, registers: Sequence[Meaning]
) -> list[StackWord]:
    """Words of the frames below what went wrong that lead to something no register leads to; the innermost first."""
    view = stacks.view
    first, count = int(view.stacks.first[row]), int(view.stacks.count[row])
    rows = np.arange(first, first + count)
    if death.kind in FATAL or death.kind in INTERRUPTING:
        interrupted = np.flatnonzero(view.frames.how[rows] == How.INTERRUPTED)
        rows = rows[int(interrupted[0]) :] if len(interrupted) else rows
    if view.stacks.end[row] == End.USER and len(rows) > 1:
        # What the entry code calls leaves some of the stack free, as much as it likes (add_random_kstack_offset):
        # what stands there is anybody's.
        rows = rows[:-1]
    addresses, frames = _words_of(view.frames.sp[rows], rows)
    words, ok = surroundings.kernel.words(addresses, 1)
    addresses, frames, values = addresses[ok], frames[ok], words[ok, 0]
    places = find_places(surroundings, values).places
    things = np.where(places.start != 0, places.start, values)  # one thing is shown once
    known = [meaning.object or meaning.value for meaning in registers] + [int(view.stacks.task[row])]
    telling = np.isin(places.place, _TELLING) & ~np.isin(things, np.array(known, np.uint64))
    telling &= (places.place != Place.OBJECT) | (values % _POINTER == 0)
    at = np.flatnonzero(telling)
    at = at[np.sort(first_rows(things[at]))]
    pages = places.place[at] == Place.PAGE
    many = pages & (places_in_run(begins_run(frames[at], pages)) >= _MOST_PAGES)
    at = at[~many][:_MOST_WORDS]
    meanings = explain(surroundings, values[at])
    return [
        StackWord(address, frame, meaning)
        for address, frame, meaning in zip(addresses[at].tolist(), frames[at].tolist(), meanings, strict=True)
    ]


def _words_of(sp: U64, rows: I64) -> tuple[U64, I64]:
    """(address, row of the frame) of every word between the stack pointers ``sp`` of frames that follow each other."""
    addresses, frames = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for place, (low, high) in enumerate(zip(sp[:-1].tolist(), sp[1:].tolist(), strict=True)):
        if low < high <= low + _DEEPEST:
            addresses.append(np.arange(low & ~7, high, 8, dtype=np.uint64))
            frames.append(np.full(len(addresses[-1]), rows[place], np.int64))
    most = _DEEPEST // 8
    return np.concatenate(addresses)[:most], np.concatenate(frames)[:most]
