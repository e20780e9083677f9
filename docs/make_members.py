"""Writes the table of the members that each view needs into docs/kernels.md; `make members` keeps it.

It is made of the tables that are read from structures, and of `vmaforensics/views/needs.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vmaforensics.views.needs import needs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmaforensics.views.needs import Member

PAGE = Path(__file__).parent / "kernels.md"
BEGIN, END = "<!-- members: begin -->\n", "<!-- members: end -->\n"


def members() -> str:
    """The table, in Markdown."""
    lines = ["| view | members it needs |", "|---|---|"]
    for view, ways in needs().items():
        for number, way in enumerate(ways, 1):
            name = f"{view}, way {number}" if len(ways) > 1 else view
            lines.append(f"| {name} | {_cell(way)} |")
    return "\n".join(lines) + "\n"


def _cell(way: Iterable[Member]) -> str:
    structs: dict[str, list[str]] = {}
    for need in way:
        structs.setdefault(need.struct, []).append(f"`{need.path.replace('|', '` or `')}`")
    return "; ".join(f"`{struct}`: {', '.join(paths)}" for struct, paths in structs.items())


def page(text: str) -> str:
    """The page ``text`` with the table as it is now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{members()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
