"""Draws the house from the code: ``make house`` writes docs/images/house.svg.

Which rooms there are and on which floor stands in :data:`FLOORS`; what each is for, which chapters it has and which
rooms it imports is read from the package. ``tests/test_rooms.py`` holds the code to the same floors.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from html import escape
from pathlib import Path
from typing import Final

import grimp

PACKAGE: Final = "vmaforensics"
ROOT: Final = Path(__file__).parents[2]

# From the ground up: an import leads to a floor further down. Rooms of one floor do not know of each other.
FLOORS: Final[tuple[tuple[str, ...], ...]] = (
    ("errors", "progress", "version"),
    ("cache",),
    ("columns",),
    ("arch",),
    ("words",),
    ("image",),
    ("kernel",),
    ("views",),
    ("checks",),
    ("analysis", "proc"),
    ("compare",),
    ("crash", "scan"),
    ("report",),
    ("export", "query"),
    ("fleet",),
    ("cli", "volatility"),
)
# What is small and everywhere is left out of the picture.
UNSEEN: Final = {"cache", "errors", "progress", "version"}

WIDTH, MARGIN, GAP = 1180, 20, 14
CHAPTER_HEIGHT, TITLE_HEIGHT, LINE_HEIGHT = 26, 46, 18
STYLE = """
  text { font-family: ui-sans-serif, system-ui, sans-serif; fill: #1b1f24; }
  .name { font-size: 17px; font-weight: 600; } .what { font-size: 13px; fill: #57606a; }
  .chapter { font-size: 12.5px; } .imports { font-size: 12px; fill: #57606a; font-style: italic; }
  .room { fill: #f6f8fa; stroke: #8c959f; } .door { fill: #ddf4ff; stroke: #54aeff; }
  .box { fill: #ffffff; stroke: #d0d7de; }
"""


def first_sentence(path: Path) -> str:
    """The first line of a module's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n", maxsplit=1)[0].rstrip(".")


def purpose(room: str) -> str:
    """What a room is for, in its own words."""
    folder = ROOT / PACKAGE / room
    return first_sentence(folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py"))


def chapters(room: str) -> list[str]:
    """The sub-packages of a room, by name."""
    return sorted(path.parent.name for path in (ROOT / PACKAGE / room).glob("*/__init__.py"))


def room_of(module: str) -> str:
    """The room that a module of the package is in; "" for the package itself."""
    return [*module.split("."), ""][1]


def imports_of_rooms() -> dict[str, set[str]]:
    """The rooms that each room imports, imports for types included."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    found: dict[str, set[str]] = {}
    for module in graph.modules:
        others = {room_of(other) for other in graph.find_modules_directly_imported_by(module)}
        found.setdefault(room_of(module), set()).update(others - {room_of(module), ""})
    return found


def _label(x: float, y: float, text: str, kind: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(text)}</text>'


def _room(room: str, x: float, y: float, width: float, height: float, imported: set[str]) -> list[str]:
    """The SVG elements of one room."""
    kind = "door" if room in FLOORS[-1] else "room"
    drawn = [f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" class="{kind}"/>']
    drawn += [_label(x + 14, y + 23, f"{room}/" if chapters(room) else room, "name")]
    drawn += [_label(x + 14, y + 41, purpose(room), "what")]
    names = chapters(room)
    left, unit = x + 14, (width - 28) / max(sum(len(name) + 4 for name in names), 1)
    for name in names:
        step = unit * (len(name) + 4)
        box = f'x="{left:.1f}" y="{y + TITLE_HEIGHT + 4:g}" width="{step - 6:.1f}" height="{CHAPTER_HEIGHT}"'
        drawn += [f'<rect {box} rx="5" class="box"/>']
        drawn += [_label(round(left + 8, 1), y + TITLE_HEIGHT + 21, name, "chapter")]
        left += step
    lines = _imports(imported, width)
    for number, line in enumerate(reversed(lines)):
        drawn += [_label(x + 14, y + height - 8 - number * LINE_HEIGHT, line, "imports")]
    return drawn


def _imports(imported: set[str], width: float) -> list[str]:
    """Which rooms one imports, the upper ones first, in lines that fit ``width``."""
    order = [name for floor in reversed(FLOORS) for name in floor if name in imported - UNSEEN]
    text = f"imports {', '.join(order)}" if order else "imports no room"
    return textwrap.wrap(text, int(width / 6.4))


def picture() -> str:
    """The whole house as SVG, the doors at the top."""
    imported = imports_of_rooms()
    drawn: list[str] = []
    y = float(MARGIN)
    for floor in reversed(FLOORS):
        rooms = [room for room in floor if room not in UNSEEN]
        if not rooms:
            continue
        width = (WIDTH - 2 * MARGIN - GAP * (len(rooms) - 1)) / len(rooms)
        lines = max(len(_imports(imported.get(room, set()), width)) for room in rooms)
        height = TITLE_HEIGHT + lines * LINE_HEIGHT + 10
        height += CHAPTER_HEIGHT if any(chapters(room) for room in rooms) else 0
        for at, room in enumerate(rooms):
            drawn += _room(room, MARGIN + at * (width + GAP), y, width, height, imported.get(room, set()))
        y += height + GAP
    size = f'width="{WIDTH}" height="{y:g}" viewBox="0 0 {WIDTH} {y:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="The rooms of {PACKAGE}">'
    ground = f'<rect width="{WIDTH}" height="{y:g}" fill="#ffffff"/>'
    return "\n".join([head, f"<style>{STYLE}</style>", ground, *drawn, "</svg>", ""])


if __name__ == "__main__":
    sys.stdout.write(picture())
