"""Stacks as lines of text, and stacks that are alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmaforensics.views.stacks.frames import End, How
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmaforensics.views.stacks.stacks import StacksView

_SELDOM = (How.CALL_FOUND, How.RETURN_ADDRESS, How.ASSUMED)  # ways that are said beside the frame


class Alike(NamedTuple):
    """Stacks with the same frames that end the same way."""

    rows: tuple[int, ...]  # of the stacks, ascending
    lines: tuple[str, ...]  # of the first of them


def frame_line(view: StacksView, row: int) -> str:
    """One frame as the kernel prints it (%pB): ``function+0x1a/0x2b0 [module]``.

    What is not proven has ``? `` before it; a frame that was not found by unwind data, how.
    """
    frames = view.frames
    function = int(frames.function[row])
    if function < 0:
        text = f"{int(frames.ip[row]):#x}"
    else:
        text = f"{printable(view.names[function])}+{int(frames.offset[row]):#x}/{int(view.functions.size[function]):#x}"
        module = int(view.functions.module[function])
        if module >= 0:
            text += f" [{printable(view.modules.name_of(module))}]"
    how = How(int(frames.how[row]))
    if how in _SELDOM:
        text += f"  ({how.text})"
    return text if frames.sure[row] else f"? {text}"


def stack_lines(view: StacksView, row: int) -> list[str]:
    """One stack, the innermost frame first; other stacks than a task's are marked as in the kernel's own traces.

    Nothing for a task without a stack and a CPU in user mode. A stack that does not end at its beginning says why.
    """
    first, count = int(view.stacks.first[row]), int(view.stacks.count[row])
    lines = []
    kind = 0
    for frame in range(first, first + count):
        now = int(view.frames.kind[frame])
        if now != kind:
            lines += ([f"</{view.kinds[kind]}>"] if kind else []) + ([f"<{view.kinds[now]}>"] if now else [])
            kind = now
        lines.append(frame_line(view, frame))
    lines += [f"</{view.kinds[kind]}>"] if kind else []
    end = End(int(view.stacks.end[row]))
    return lines if end.whole else [*lines, f"({end_text(view, row)})"]


def end_text(view: StacksView, row: int) -> str:
    """Why a stack has no further frames, with the word that ended it if there is one."""
    end = End(int(view.stacks.end[row]))
    where, value = int(view.stacks.where[row]), int(view.stacks.value[row])
    if end.whole or not where:
        return end.text
    return f"{end.text}: {value:#x} at {where:#x}" if value else f"{end.text}: {where:#x}"


def group_stacks(view: StacksView, rows: Iterable[int]) -> list[Alike]:
    """The stacks of ``rows``, those with the same functions, offsets and end together; the most frequent first."""
    groups: dict[tuple[int, bytes, bytes, bytes], list[int]] = {}
    for row in sorted(rows):
        part = slice(int(view.stacks.first[row]), int(view.stacks.first[row] + view.stacks.count[row]))
        frames = view.frames
        key = (
            int(view.stacks.end[row]),
            frames.ip[part].tobytes(),
            frames.kind[part].tobytes(),
            frames.how[part].tobytes(),
        )
        groups.setdefault(key, []).append(row)
    ordered = sorted(groups.values(), key=lambda alike: (-len(alike), alike[0]))
    return [Alike(tuple(alike), tuple(stack_lines(view, alike[0]))) for alike in ordered]
