"""Where the memory went, as text for people."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

from vmaforensics.words.amounts import amount, counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmaforensics.crash.memory_document import MemoryPart, OomPart

_WIDTH: Final = 100
_IN_A_ROW: Final = 4  # figures
_TOP: Final = 5  # of each list
# Those that say most; the others are in the JSON form.
_SHOWN: Final = (
    "MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapCached", "AnonPages", "Mapped", "Shmem", "Dirty",
    "Writeback", "Unevictable", "SwapTotal", "SwapFree", "SReclaimable", "SUnreclaim", "KernelStack", "PageTables",
    "VmallocUsed", "Percpu", "Hugetlb", "AnonHugePages", "Committed_AS", "CommitLimit",
)  # fmt: skip


def memory_lines(memory: MemoryPart) -> Iterator[str]:
    """Figures, and who has most of it."""
    values = {figure.name: figure for figure in memory.figures}
    cells = [f"{name:<12}{amount(values[name].value << 10):>11}" for name in _SHOWN if name in values]
    for at in range(0, len(cells), _IN_A_ROW):
        yield "  " + "  ".join(cells[at : at + _IN_A_ROW])
    rest = [f"{amount(memory.on_cpus)} free on lists of CPUs"] if memory.on_cpus else []
    if memory.unaccounted is not None and memory.unaccounted > 0:
        rest.append(f"{amount(memory.unaccounted)} in none of these, as pages that drivers took for themselves")
    if rest:
        yield "  besides: " + "; ".join(rest)
    yield from _list(
        "processes",
        (
            f"pid {part.pid} ({part.comm}) {amount(part.resident)}"
            + (f" and {amount(part.swapped)} in swap" if part.swapped else "")
            for part in memory.processes[:_TOP]
        ),
    )
    yield from _list(
        "slab",
        (f"{part.name} {amount(part.size)}, {part.objects:,} × {part.object_size} B" for part in memory.slabs[:_TOP]),
    )
    yield from _list(
        "shared memory", (f"{part.name} {amount(part.resident + part.swapped)}" for part in memory.shmem[:_TOP])
    )
    yield from _list("vmalloc", (f"{part.caller} {amount(part.size)}" for part in memory.vmalloc[:_TOP]))
    if memory.oom is not None:
        yield from _oom(memory.oom)


def _list(what: str, items: Iterable[str]) -> list[str]:
    """A line, wrapped between items."""
    text = "; ".join(item.replace(" ", "\N{NO-BREAK SPACE}") for item in items)
    lines = textwrap.wrap(text, _WIDTH - 18, break_long_words=False, break_on_hyphens=False)
    return [
        f"  {what if not place else '':<16}{line}".replace("\N{NO-BREAK SPACE}", " ")
        for place, line in enumerate(lines)
    ]


def _oom(oom: OomPart) -> Iterator[str]:
    """The last report of the OOM killer."""
    lines = [f"The OOM killer last reported {oom.time} s after boot: {oom.invoked}"]
    lines += [oom.killed] if oom.killed is not None else ["It killed nobody."]
    largest = "; ".join(f"pid {task.pid} ({task.name}) {amount(task.resident)}" for task in oom.largest)
    if largest:
        lines.append(f"Largest of the {counted(oom.tasks, 'task')} in its table: {largest}")
    for line in lines:
        yield from textwrap.wrap(line, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
