"""A region of a memory map, made ready to be drawn and listed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmaforensics.compare.records_document import Row
    from vmaforensics.report.formats.html.cards import Card, Mark


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A region: its cells, the findings about it, and how many regions before it are left out."""

    row: Row
    marks: tuple[Mark, ...]
    cards: tuple[Card, ...]
    skipped: int
