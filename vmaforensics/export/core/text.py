"""What a core file holds, in a few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.export.core.core import hidden_parts
from vmaforensics.export.core.segments import total
from vmaforensics.words.amounts import amount, counted
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.export.core.core import Core

_MOST = 16  # threads and hidden regions that are told one by one


def summary(core: Core) -> Iterator[str]:
    """Lines on the process, its threads, what is hidden and what is missing."""
    counts = core.layout.counts
    yield (
        f"{printable(core.process.comm)} (pid {core.process.pid}): {counted(len(core.threads), 'thread')}, "
        f"{counted(len(core.regions.rows), 'region')}, {amount(total(core.layout.segments))}\n"
    )
    for thread in core.threads[:_MOST]:
        told = "; ".join(thread.missing)
        yield f"  thread {thread.tid}: registers from {thread.source}{f'; missing: {told}' if told else ''}\n"
    if len(core.threads) > _MOST:
        yield f"  and {counted(len(core.threads) - _MOST, 'more thread')}\n"
    hidden = hidden_parts(core)
    for part in hidden[:_MOST]:
        shown = part["shown_by"]
        records = ", ".join(shown) if isinstance(shown, list) else ""
        yield f"  hidden: {part['start']}-{part['end']} {part['name']}, shown by {records}\n"
    if len(hidden) > _MOST:
        yield f"  and {counted(len(hidden) - _MOST, 'more hidden region')}\n"
    yield f"  pages: {', '.join(f'{count:,} {state}' for state, count in counts.items())}\n"
    for problem in core.problems:
        yield f"  {problem}\n"
