"""Unwinding: a frame of every stack per round, each round checked before it is believed.

A stack is followed upwards: what a step read has to lie on the task's own stack, or on one of a CPU's if the task was
on a CPU; the stack pointer has to rise, and a stack that was left is not entered again (visit_mask of
arch/x86/kernel/dumpstack_64.c). So every walk ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.unwinding import Cursor, Found
from vmaforensics.views.stacks.frames import End, Frames, How
from vmaforensics.views.stacks.return_hooks import find_hooks
from vmaforensics.views.stacks.starts import GOING

if TYPE_CHECKING:
    from vmaforensics.arch.unwinding import Step, Unwinding
    from vmaforensics.columns.types import I64, U8, U16, U64, Bools
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.stacks.bounds import Bounds
    from vmaforensics.views.stacks.code import Code
    from vmaforensics.views.stacks.frames import Stacks
    from vmaforensics.views.stacks.return_hooks import ReturnHooks
    from vmaforensics.views.stacks.starts import Starts

DEEPEST = 256  # frames of one stack
_SEARCHED = 64  # words above the stack pointer that a call is looked for in; __crash_kexec needs 23
_ENDS = {
    Found.BOTTOM: End.BOTTOM,
    Found.NO_DATA: End.NO_DATA,
    Found.LOST_DATA: End.LOST_DATA,
    Found.UNREADABLE: End.UNREADABLE,
    Found.NO_REGISTER: End.NO_REGISTER,
}
_HOW = {Found.CALLER: How.CALLER, Found.INTERRUPTED: How.INTERRUPTED, Found.ASSUMED: How.ASSUMED}


def unwind(kernel: Kernel, unwinding: Unwinding, code: Code, starts: Starts, bounds: Bounds) -> Frames:
    """The frames of all stacks, sorted by stack and depth; writes the end of each into ``starts.stacks``."""
    stacks = starts.stacks
    hooks = find_hooks(kernel)
    rows = np.flatnonzero(stacks.end == GOING)
    cursor, how = starts.cursor.take(rows), starts.how[rows]
    sure = np.ones(len(rows), np.bool_)
    saved = np.zeros(len(rows), np.uint64)
    kind = np.maximum(bounds.kinds(rows, cursor.sp - np.uint64(1), np.ones(len(rows), np.uint64)), 0)
    been: U16 = (1 << kind).astype(np.uint16)
    parts: list[Frames] = []
    for depth in range(DEEPEST + 1):
        if not len(rows):
            break
        if depth == DEEPEST:
            stacks.end[rows], stacks.where[rows] = End.TOO_DEEP, cursor.sp
            break
        sure &= how < How.ASSUMED
        parts.append(_frames(rows, depth, cursor, saved, kind, how, sure))
        step = unwinding.step(cursor)
        how = np.array([_HOW.get(Found(found), How.CALLER) for found in range(len(Found))], np.uint8)[step.found]
        step = _other_ways(kernel, unwinding, code, cursor, step, how)
        lost = _real_returns(hooks, stacks.task[rows], step)
        ends, reached = _judge(bounds, rows, cursor, step, kind, been)
        no_code = (ends == GOING) & ~_is_code(kernel, code, step)
        ends[no_code] = End.NO_CODE
        ends[lost & (ends == GOING)] = End.HOOK
        _note_ends(kernel, stacks, rows, ends, step)
        on = ends == GOING
        left = on & (reached != kind)
        been[left] |= (1 << reached[left]).astype(np.uint16)
        saved = np.where(step.found == Found.INTERRUPTED, step.where, np.uint64(0))[on]
        rows, kind, been, how, sure = rows[on], reached[on], been[on], how[on], sure[on]
        cursor = step.cursor.take(on)
    frames = Frames.concatenate(parts)
    return frames.sort_by(frames.stack, frames.depth)


def _frames(rows: I64, depth: int, cursor: Cursor, saved: U64, kind: I64, how: U8, sure: Bools) -> Frames:
    """One frame of each stack."""
    frames = Frames.zeros(len(rows))
    frames.stack[:], frames.depth[:], frames.kind[:] = rows, depth, kind
    frames.ip[:], frames.sp[:], frames.bp[:], frames.precise[:] = cursor.ip, cursor.sp, cursor.bp, cursor.precise
    frames.registers[:], frames.how[:], frames.sure[:] = saved, how, sure
    return frames


def _judge(bounds: Bounds, rows: I64, cursor: Cursor, step: Step, kind: I64, been: U16) -> tuple[U8, I64]:
    """(End of each stack, GOING where it goes on; the kind of stack it goes on on)."""
    ends = np.full(len(rows), GOING, np.uint8)
    for found, end in _ENDS.items():
        ends[step.found == found] = end
    ends[step.found == Found.USER] = End.USER
    looked = step.size != 0
    looked &= (step.found <= Found.USER) | (step.found == Found.UNREADABLE)
    ends[looked & (bounds.kinds(rows, step.where, step.size) < 0)] = End.OUTSIDE
    # The word below the caller's stack pointer is on the stack still; that at the end of an empty stack is not.
    reached = bounds.kinds(rows, step.cursor.sp - np.uint64(1), np.ones(len(rows), np.uint64))
    reached = np.where(reached < 0, kind, reached)
    loops = (reached == kind) & (step.cursor.sp <= cursor.sp)
    loops |= (reached != kind) & ((been >> reached.astype(np.uint16) & 1) != 0)
    ends[(ends == GOING) & loops] = End.LOOP
    return ends, reached


def _is_code(kernel: Kernel, code: Code, step: Step) -> Bools:
    """Which callers can be code: known code, something the kernel maps (a trampoline), or a jump to nowhere."""
    found = code.holds(step.cursor.ip)
    found |= step.found == Found.INTERRUPTED
    rest = np.flatnonzero(~found)
    mapped = kernel.space.translate(step.cursor.ip[rest]).mapped
    found[rest] = mapped & kernel.arch.kernel_pointer(step.cursor.ip[rest])
    return found


def _real_returns(hooks: ReturnHooks, tasks: U64, step: Step) -> Bools:
    """Put return addresses that a tracer replaced into the step as they were; which of them are not known."""
    lost: Bools = (step.found == Found.CALLER) & hooks.replaced(step.cursor.ip)
    rows = np.flatnonzero(lost)
    if len(rows):
        real = hooks.recover(tasks[rows], step.where[rows])
        step.cursor.ip[rows] = np.where(real != 0, real, step.cursor.ip[rows])
        lost[rows] = real == 0
    return lost


def _note_ends(kernel: Kernel, stacks: Stacks, rows: I64, ends: U8, step: Step) -> None:
    """Write how these stacks ended, with the word that ended them."""
    over = ends != GOING
    at = rows[over]
    looked = np.isin(ends[over], (End.USER, End.OUTSIDE, End.UNREADABLE, End.LOOP, End.NO_CODE, End.HOOK))
    stacks.end[at], stacks.where[at] = ends[over], np.where(looked, step.where[over], np.uint64(0))
    user = ends == End.USER
    stacks.user_ip[rows[user]], stacks.user_sp[rows[user]] = step.cursor.ip[user], step.cursor.sp[user]
    named = np.isin(ends, (End.NO_CODE, End.LOOP, End.HOOK))
    stacks.value[rows[named]] = np.where(ends == End.LOOP, step.cursor.sp, step.cursor.ip)[named]


def _other_ways(kernel: Kernel, unwinding: Unwinding, code: Code, cursor: Cursor, step: Step, how: U8) -> Step:
    """Frames whose functions have no unwind data and still have a caller that can be proven; few, each by itself.

    A thunk and a jump to what is no code leave the return address at the stack pointer. Of a function that the kernel
    excludes from unwinding (``__crash_kexec``: STACK_FRAME_NON_STANDARD), the caller is the word of the stack right
    behind an instruction that calls it.
    """
    stuck = np.isin(step.found, (Found.NO_DATA, Found.BOTTOM)) & (cursor.precise | (step.found == Found.NO_DATA))
    nowhere = cursor.precise & (cursor.ip != 0) & ~code.holds(cursor.ip)
    rows = np.flatnonzero(stuck | nowhere)
    if not len(rows):
        return step
    named = code.name(kernel, cursor.ip[rows])
    leaves = unwinding.leave(cursor.take(rows))
    returns = unwinding.behind_calls(leaves.cursor.ip) & code.holds(leaves.cursor.ip)
    columns = {name: values.copy() for name, values in step.cursor.columns().items()}
    found, where, size = step.found.copy(), step.where.copy(), step.size.copy()
    for place, row in enumerate(rows.tolist()):
        function = int(named.row[place])
        name = "" if function < 0 else named.names[function].decode("utf-8", "replace")
        chosen: Step | None = None
        at, way = place, How.RETURN_ADDRESS
        if (nowhere[row] and returns[place]) or (cursor.precise[row] and unwinding.is_thunk(name)):
            chosen = leaves
        elif found[row] == Found.NO_DATA and function >= 0:
            start = int(named.functions.start[function])
            chosen, at, way = (
                _call_above(kernel, unwinding, cursor.take(rows[place : place + 1]), start),
                0,
                How.CALL_FOUND,
            )
        if chosen is None or chosen.found[at] != Found.CALLER:
            continue
        for name, values in chosen.cursor.columns().items():
            columns[name][row] = values[at]
        found[row], where[row], size[row], how[row] = Found.CALLER, chosen.where[at], chosen.size[at], way
    return step._replace(cursor=Cursor(**columns), found=found, where=where, size=size)


def _call_above(kernel: Kernel, unwinding: Unwinding, cursor: Cursor, function: int) -> Step | None:
    """The first word above the stack pointer that a call of ``function`` would have put there, as a step."""
    places = cursor.sp + np.arange(_SEARCHED, dtype=np.uint64) * np.uint64(8)
    words, ok = kernel.words(places, 1)
    hits = np.flatnonzero(ok & (unwinding.call_targets(words[:, 0]) == np.uint64(function)))
    return None if not len(hits) else unwinding.leave(cursor.replace(sp=places[hits[:1]]))
