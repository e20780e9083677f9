"""Frames of stacks, and registers, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.crash.document import Frame, Registers, StackPart

_IN_A_ROW: Final = 3  # registers
_MOST_NAMED: Final = 5  # tasks of stacks that are alike


def stack_owners(stack: StackPart) -> str:
    """Whose stack it is."""
    named = [f"pid {task.pid} ({task.comm})" for task in stack.tasks[:_MOST_NAMED]]
    rest = stack.count - len(named)
    who = ", ".join(named) + (f" and {rest:,} more" if rest else "")
    if stack.why in ("died", "cpu"):
        return f"Stack of CPU {stack.tasks[0].cpu}: {who}" + (", which died" if stack.why == "died" else "")
    state = "in uninterruptible sleep (D)" if stack.why == "waits" else "off the CPUs"
    return f"Stack of {counted(stack.count, 'task')} {state}: {who}"


def frame_lines(frames: list[Frame]) -> Iterator[str]:
    """A line for each frame; where a stack other than the task's begins and ends, as the kernel marks it."""
    before = "TASK"
    for frame in frames:
        if frame.stack != before:
            yield from (f"   </{before}>",) * (before != "TASK")
            yield from (f"   <{frame.stack}>",) * (frame.stack != "TASK")
            before = frame.stack
        yield f"  {' ' if frame.reliable else '?'} {_frame(frame)}"
    if before != "TASK":
        yield f"   </{before}>"


def _frame(frame: Frame) -> str:
    module = f" [{frame.module}]" if frame.module else ""
    interrupted = "  (interrupted here)" if frame.interrupted else ""
    place = f"+{frame.offset:#x}/{frame.size:#x}" if frame.size else ""
    return f"{frame.name}{place}{module}{interrupted}"


def register_table(registers: Registers) -> Iterator[str]:
    """The words, some in a row."""
    cells = [f"{name:>8} {int(value, 16):016x}" for name, value in registers.values.items()]
    for at in range(0, len(cells), _IN_A_ROW):
        yield "  ".join(cells[at : at + _IN_A_ROW])
