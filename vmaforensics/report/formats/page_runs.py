"""Page-table entries as text and as CSV."""

from __future__ import annotations

import csv
import io
from itertools import groupby
from typing import TYPE_CHECKING

from vmaforensics.report.document.page_entries import PageRun

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def render_text(runs: Iterable[PageRun]) -> Iterator[str]:
    """A heading per VMA, a line per run. A mark ``!`` begins lines where page and VMA disagree."""
    for (vma, area), group in groupby(runs, key=lambda run: (run.vma, run.area)):
        yield f"VMA {area}  (vm_area_struct {vma})\n" if vma else "in no VMA\n"
        yield (
            f"  {'address':>16} {'pages':>6} {'entry':>18} {'state':9} {'L':1} {'frame':>10} {'perm':4} {'owner':13} "
            f"{'index':>12} {'mapping':>18} {'maps':>5}  flags\n"
        )
        for run in group:
            frame = run.pfn or run.swap or "-"
            frame += "" if run.consecutive or frame == "-" else "…"
            line = (
                f"{'!' if run.marks else ' '} {run.start[2:]:>16} {run.pages:6} {run.entry:>18} {run.state:9} "
                f"{run.level} {frame:>10} {run.perms:4} {run.owner:13} {run.index or '-':>12} {run.mapping or '-':>18} "
                f"{'-' if run.mapcount is None else run.mapcount:>5}  {','.join(run.flags)}"
            )
            yield line.rstrip() + "\n"
            if run.marks:
                yield f"  ^ {'; '.join(run.marks)}\n"


def render_csv(runs: Iterable[PageRun]) -> Iterator[str]:
    """The lines of RFC 4180 with a header; lists are joined by ``;``. No cell can be taken for a formula."""
    names = PageRun.__struct_fields__
    yield _line(names)
    for run in runs:
        yield _line([_cell(getattr(run, name)) for name in names])


def _line(cells: Iterable[str]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(cells)
    return out.getvalue()


def _cell(value: object) -> str:
    text = "" if value is None else "; ".join(value) if isinstance(value, tuple) else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
