"""What may have been on a stack that could not be unwound: every word right behind some call instruction.

So does the kernel with its marks of ``?`` (arch/x86/kernel/unwind_guess.c). Such words may be left over from earlier
calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.runs import begins_run, places_in_run
from vmaforensics.views.stacks.frames import End, Frames, How

if TYPE_CHECKING:
    from vmaforensics.arch.unwinding import Unwinding
    from vmaforensics.columns.types import I64, U64
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.stacks.bounds import Bounds
    from vmaforensics.views.stacks.code import Code
    from vmaforensics.views.stacks.starts import Starts

_MOST = 32  # guesses of one stack
_BATCH = 64  # stacks read at once
_WORD = 8
_NOTHING_TO_GUESS = (End.USER, End.BOTTOM, End.NO_STACK)


def add_guesses(
    kernel: Kernel, unwinding: Unwinding, code: Code, starts: Starts, bounds: Bounds, frames: Frames
) -> Frames:
    """``frames`` with guesses behind those of each stack that does not end at its beginning.

    From the outermost frame upwards; for a task without any, from where it last gave up the CPU.
    """
    rows = np.flatnonzero(~np.isin(starts.stacks.end, _NOTHING_TO_GUESS)).astype(np.int64)
    if not len(rows):
        return frames
    sp, depth = starts.cursor.sp.copy(), np.zeros(len(starts.stacks), np.int64)
    lasts = np.flatnonzero(np.append(frames.stack[1:] != frames.stack[:-1], True)) if len(frames) else rows[:0]
    sp[frames.stack[lasts]], depth[frames.stack[lasts]] = frames.sp[lasts], frames.depth[lasts] + 1
    guesses = [
        _guesses(kernel, unwinding, code, bounds, rows[at : at + _BATCH], sp) for at in range(0, len(rows), _BATCH)
    ]
    found = Frames.concatenate(guesses)
    found.depth[:] += depth[found.stack].astype(np.uint16)
    both = Frames.concatenate([frames, found])
    return both.sort_by(both.stack, both.depth)


def _guesses(kernel: Kernel, unwinding: Unwinding, code: Code, bounds: Bounds, rows: I64, sp: U64) -> Frames:
    """The guesses of some stacks, the lowest words first."""
    start = (sp[rows] + np.uint64(_WORD - 1)) & ~np.uint64(_WORD - 1)
    count = int(bounds.left(rows, start).max(initial=np.uint64(0))) // _WORD
    words = np.zeros((len(rows), count), np.uint64)
    ok = np.zeros((len(rows), count), np.bool_)
    with np.errstate(over="ignore"):
        places = start[:, None] + np.arange(count, dtype=np.uint64) * np.uint64(_WORD)
    inside = np.arange(count) * _WORD < bounds.left(rows, start)[:, None].astype(np.int64)
    values, readable = kernel.words(places[inside], 1)
    words[inside], ok[inside] = values[:, 0], readable
    hits = ok & code.holds(words.reshape(-1)).reshape(words.shape)
    row, place = np.nonzero(hits)
    calls = unwinding.behind_calls(words[row, place])
    row, place = row[calls], place[calls]
    nth = places_in_run(begins_run(row))
    row, place, nth = row[nth < _MOST], place[nth < _MOST], nth[nth < _MOST]
    frames = Frames.zeros(len(row))
    frames.stack[:], frames.depth[:] = rows[row], nth
    frames.ip[:], frames.sp[:] = words[row, place], places[row, place] + np.uint64(_WORD)
    frames.kind[:] = np.maximum(bounds.kinds(rows, start, np.full(len(rows), _WORD, np.uint64)), 0)[row]
    frames.how[:] = How.GUESS
    return frames
