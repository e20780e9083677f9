"""Where code of the kernel goes on: calls and jumps that lead where no code of its own would.

Of the functions between a reader of /proc and the areas, and of all entry code, every instruction is taken apart; of
the rest of the kernel's code, what may be a call or jump to other executable memory. Compilers let calls lead to the
beginning of functions, and jumps into the same function, parts of it (``.cold``) or to the beginning of another.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.arch.branches import FlowKind
from vmaforensics.columns.lookup import covering_rows, distinct, is_in
from vmaforensics.columns.ragged import expand
from vmaforensics.columns.runs import begins_range, run_lasts, run_starts
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I64, U8, U64, Bools
from vmaforensics.views.road.code_owners import Owner
from vmaforensics.views.road.functions import REACHING

if TYPE_CHECKING:
    from vmaforensics.arch.branches import Flow
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.road.code_owners import CodeOwners
    from vmaforensics.views.road.foreign_code import Pages
    from vmaforensics.views.road.functions import Functions

_LARGEST: Final = 1 << 16  # bytes of a function; more is data between two symbols
_MOST: Final = 1 << 22  # bytes of code that are taken apart
_DIRECT: Final = (FlowKind.CALL, FlowKind.JUMP, FlowKind.BRANCH)
_FALLS_THROUGH: Final = (FlowKind.OTHER, FlowKind.BRANCH, FlowKind.LOAD)
_AT_ONCE: Final = 1 << 22  # bytes of code that are searched at once
_TRAMPOLINE, _KEY = "__SCT__", "__SCK__"  # STATIC_CALL_TRAMP_PREFIX, STATIC_CALL_KEY_PREFIX
_DISPATCHER: Final = "bpf_dispatcher_"  # DEFINE_BPF_DISPATCHER, include/linux/bpf.h


class Way(IntEnum):
    """How code goes on where it should not."""

    OUT = 0
    MIDDLE = 1
    CONSTANT = 2
    STOPPED = 3

    @property
    def text(self) -> str:
        """As people say it."""
        return (
            "inside of a function, a jump or call out of the kernel's code",
            "a jump or call into the middle of another function",
            "a jump or call to an address that the code holds",
            "inside of a function, a breakpoint that no kprobe and no patch under way accounts for",
        )[self]


@table()
class WrongFlow(Table):
    """An instruction that leads elsewhere than code of the kernel would; by address."""

    at: U64
    target: U64  # 0 for a breakpoint
    way: U8  # Way


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFlow:
    """See :func:`find_flow`."""

    wrong: WrongFlow
    instructions: int  # that were taken apart
    searched: int  # bytes of code that were searched for what leads out of it
    unread: int  # pages of code that are not in the image
    lost: int  # functions that could not be followed to their ends

    @classmethod
    def none(cls) -> FoundFlow:
        """Nothing was looked at."""
        return cls(wrong=WrongFlow.zeros(0), instructions=0, searched=0, unread=0, lost=0)


def find_flow(
    kernel: Kernel,
    functions: Functions,
    owners: CodeOwners,
    patched: U64,
    called: U64,
    executable: Pages,
    *,
    named: bool,
) -> FoundFlow:
    """What leads elsewhere. ``patched`` are the places that have a record of their own, which are not looked at here.

    ``called`` are functions that ftrace may call from its own code, ``executable`` pages outside of the kernel's code
    that the CPU may execute. ``named``: all functions are known by name.
    """
    stext, etext = kernel.symbols.get("_stext"), kernel.symbols.get("_etext")
    if stext is None or etext is None or not stext < etext <= stext + kernel.arch.image_size:
        return FoundFlow.none()
    text = _Text(kernel, stext, etext, owners, patched)
    closely = text.follow(*_followed(kernel, functions, stext, etext))
    places, searched, unread = text.candidates(executable)
    start = distinct(text.starts_of(places))
    start = start[~is_in(start, closely.start)]
    led_out = text.follow(start, text.ends_of(start))
    some = led_out.wrong.way != Way.MIDDLE  # by hand-written code of other kinds, elsewhere
    wrong = WrongFlow.concatenate([closely.wrong, led_out.wrong.take(some & is_in(led_out.wrong.at, places))])
    wrong = wrong.take(~_by_record(kernel, wrong, owners, called))
    if not named:  # a function that is not known by name begins anywhere
        wrong = wrong.take(wrong.way != Way.MIDDLE)
    return FoundFlow(
        wrong=wrong.sort_by(wrong.at),
        instructions=closely.instructions,
        searched=searched,
        unread=unread,
        lost=closely.lost + led_out.lost,
    )


def _by_record(kernel: Kernel, wrong: WrongFlow, owners: CodeOwners, called: U64) -> Bools:
    """Which lead where a record says: trampolines of static calls, of BPF's dispatchers, and calls of ftrace itself."""
    symbols = kernel.symbols.by_address()
    nearest = symbols.nearest(wrong.at)
    own = np.array([at for name in kernel.arch.tracer_calls for at in kernel.symbols.find(name)], np.uint64)
    found = is_in(wrong.at, own) & is_in(wrong.target, called)
    for row in np.flatnonzero(~found).tolist():
        name = symbols.name(int(nearest.row[row]))
        if name.startswith(_TRAMPOLINE) and kernel.has("static_call_key", "func"):
            key = kernel.symbols.get(_KEY + name.removeprefix(_TRAMPOLINE))
            func, ok = kernel.gather_member("static_call_key", "func", np.array([key or 0], np.uint64))
            found[row] = bool(ok[0]) and func[0] == wrong.target[row]
        elif name.startswith(_DISPATCHER):
            found[row] = owners.of(wrong.target[row : row + 1])[0] == Owner.BPF
    return found


def _followed(kernel: Kernel, functions: Functions, stext: int, etext: int) -> tuple[U64, U64]:
    """(start, end) of the functions that are taken apart: of the road, what leads to them, and entry code."""
    symbols = kernel.symbols.by_address()
    reaching = [at for name in (*REACHING, *kernel.arch.entry_functions) for at in kernel.symbols.find(name)]
    low, high = (kernel.symbols.get(name) for name in kernel.arch.entry_text)
    low, high = (0, 0) if low is None or high is None else (low, high)  # one of the two bounds nothing
    entry = symbols.addresses[(symbols.addresses >= np.uint64(low)) & (symbols.addresses < np.uint64(high))]
    start = distinct(np.concatenate([functions.start, np.array(reaching, np.uint64), entry]))
    start = start[(start >= np.uint64(stext)) & (start < np.uint64(etext))]
    return start, symbols.nearest(start).end


@dataclass(frozen=True, slots=True, kw_only=True)
class _Followed:
    start: U64
    wrong: WrongFlow
    instructions: int
    lost: int


@dataclass(frozen=True, slots=True)
class _Text:
    """The kernel's code."""

    kernel: Kernel
    stext: int
    etext: int
    owners: CodeOwners
    patched: U64

    def starts_of(self, places: U64) -> U64:
        """The symbol that each place lies behind."""
        return self.kernel.symbols.by_address().nearest(places).start

    def ends_of(self, starts: U64) -> U64:
        """The next symbol behind each."""
        return self.kernel.symbols.by_address().nearest(starts).end

    def candidates(self, executable: Pages) -> tuple[U64, int, int]:
        """Places that may be a call or jump to ``executable``, bytes searched, and pages that are not in the image."""
        page = self.kernel.arch.page_size
        found, searched, unread = [np.zeros(0, np.uint64)], 0, 0
        if not len(executable):
            return found[0], 0, 0
        first = run_starts(begins_range(executable.va, executable.va + np.uint64(page)))
        start, end = executable.va[first], executable.va[run_lasts(first, len(executable))] + np.uint64(page)
        for low in range(self.stext & -page, self.etext, _AT_ONCE):
            pages = np.arange(low, min(low + _AT_ONCE, self.etext), page, dtype=np.uint64)
            data, ok = self.kernel.space.gather(pages, page)
            searched, unread = searched + int(ok.sum()) * page, unread + int((~ok).sum())
            if not ok.any():
                continue
            place, target = self.kernel.arch.far_branches(data.reshape(-1), low)
            leads = (covering_rows(start, end, target) >= 0) & ok[place // page]
            found.append(np.uint64(low) + place[leads].astype(np.uint64))
        places = np.concatenate(found)
        return places[~is_in(places, self.patched)], searched, unread

    def follow(self, start: U64, end: U64) -> _Followed:
        """Take functions apart, all of them a step at a time."""
        fits = (end > start) & (end - start <= np.uint64(_LARGEST))
        fits &= np.cumsum(np.where(fits, end - start, np.uint64(0))) <= np.uint64(_MOST)
        start, end = start[fits], end[fits]
        row, place = expand(end - start)
        at = start[row] + place.astype(np.uint64)
        code, held = self._code(at)
        flow = self.kernel.arch.flow(code, at)
        stops = np.cumsum((end - start).astype(np.int64))
        here, before, lost = _chain(flow, held, stops - (end - start).astype(np.int64), stops)
        wrong = self._judge(flow, code, at, here, before, end[row[here]])
        return _Followed(start=start, wrong=wrong, instructions=len(here), lost=lost + int((~fits).sum()))

    def _code(self, at: U64) -> tuple[U8, Bools]:
        shift = np.uint64(self.kernel.arch.page_shift)
        pages, which = np.unique(at >> shift, return_inverse=True)
        data, ok = self.kernel.space.gather(pages << shift, self.kernel.arch.page_size)
        inside = (at & np.uint64(self.kernel.arch.page_size - 1)).astype(np.int64)
        return data[which, inside], ok[which]

    def _judge(self, flow: Flow, code: U8, at: U64, here: I64, before: I64, end: U64) -> WrongFlow:
        """``here`` are the instructions, ``before`` what each follows (-1: nothing), ``end`` that of its function."""
        kind, target, lies = flow.kind[here], flow.target[here], at[here]
        fine = is_in(lies, self.patched)
        led = np.isin(kind, _DIRECT)
        target, led = self._loaded(flow, kind, target, led, before)
        own = (target >= np.uint64(self.stext)) & (target < np.uint64(self.etext))
        out = led & ~own & (self.owners.of(target) != Owner.INIT)  # to boot code: while the kernel boots
        held = np.isin(kind, (FlowKind.RETURN, FlowKind.INDIRECT))
        middle = led & own & self._in_the_middle(kind, lies, target)
        stopped = (kind == FlowKind.BREAKPOINT) & np.isin(_of(flow.kind, before), _FALLS_THROUGH)
        stopped &= ~self._only_filler(code, at, here, end, stopped)
        way = np.select([stopped, out & held, out], [Way.STOPPED, Way.CONSTANT, Way.OUT], Way.MIDDLE)
        rows = np.flatnonzero((out | middle | stopped) & ~fine)
        return WrongFlow.of(len(rows), at=lies[rows], target=target[rows], way=way[rows].astype(np.uint8))

    def _loaded(self, flow: Flow, kind: U8, target: U64, led: Bools, before: I64) -> tuple[U64, Bools]:
        """Where a constant is pushed or loaded and gone to at once; and where a word says where to go."""
        held = np.isin(_of(flow.kind, before), (FlowKind.PUSH, FlowKind.LOAD))
        held &= np.isin(kind, (FlowKind.RETURN, FlowKind.INDIRECT))
        constant = np.where(before >= 0, flow.target[np.maximum(before, 0)], np.uint64(0))
        words = (kind == FlowKind.INDIRECT) & (target != 0)
        value, ok = self.kernel.words(np.where(words, target, np.uint64(self.stext)), 1)
        words &= ok & (value[:, 0] != 0)
        return np.select([words, held], [value[:, 0], constant], target), led | held | words

    def _in_the_middle(self, kind: U8, lies: U64, target: U64) -> Bools:
        """Which calls lead behind the beginning of another function, and which jumps, but for those within a part."""
        symbols = self.kernel.symbols.by_address()
        mine, theirs = symbols.nearest(lies), symbols.nearest(target)
        behind: Bools = (theirs.start != target) & (theirs.start != mine.start)
        low, high = (np.uint64(self.kernel.symbols.get(name) or 0) for name in self.kernel.arch.entry_text)
        behind &= ~((lies >= low) & (lies < high) & (target >= low) & (target < high) & (kind != FlowKind.CALL))
        for row in np.flatnonzero(behind & (kind != FlowKind.CALL)).tolist():
            names = (symbols.name(int(found.row[row])).split(".", 1)[0] for found in (mine, theirs))
            behind[row] = len(set(names)) > 1
        return behind

    def _only_filler(self, code: U8, at: U64, here: I64, end: U64, asked: Bools) -> Bools:
        """Behind which of the ``asked`` places nothing but breakpoints follows up to the next symbol."""
        found = np.zeros(len(here), np.bool_)
        for row in np.flatnonzero(asked).tolist():
            first = int(here[row])
            rest = code[first : first + int(end[row] - at[first])]
            found[row] = bool(self.kernel.arch.breakpoints(rest).all())
        return found


def _of(kinds: U8, rows: I64) -> U8:
    """The kind of each row, RETURN for none."""
    return np.where(rows >= 0, kinds[np.maximum(rows, 0)], np.uint8(FlowKind.RETURN)).astype(np.uint8)


def _chain(flow: Flow, held: Bools, start: I64, stop: I64) -> tuple[I64, I64, int]:
    """From each ``start`` to ``stop``: bytes that begin an instruction, what each follows, and how many broke off.

    ``stop`` ascends, as do the starts. Each round looks twice as far as the one before.
    """
    count = len(flow)
    begins = np.arange(count)
    after = begins + flow.size
    ends = np.repeat(stop, stop - start)
    good = (flow.size > 0) & (after <= ends) & held
    following = np.append(np.where(good & (after < ends), after, count), count)
    reached = np.zeros(count + 1, np.bool_)
    reached[start[start < stop]] = True
    jump = following
    for _ in range(_LARGEST.bit_length()):
        reached[jump[np.flatnonzero(reached)]] = True
        jump = jump[jump]
    found = np.flatnonzero(reached[:count])
    lost = int((~good[found]).sum())
    found = found[good[found]]
    before = np.full(count + 1, -1, np.int64)
    before[following[found]] = found
    return found, before[found], lost
