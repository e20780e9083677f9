"""The rooms of the house: an import leads to a room further down, never up, never around.

Imports for types alone count too: what they hide is a circle of ideas.
"""

from __future__ import annotations

import sys
from graphlib import CycleError, TopologicalSorter

import grimp
import pytest
from support import ROOT

sys.path.insert(0, str(ROOT / "docs" / "house"))
from make_house import FLOORS, picture

ENGINE = ("columns", "arch", "image", "kernel", "words", "views", "checks", "analysis")
NOT_IN_THE_ENGINE = ("volatility3", "rich", "jinja2")
FLOOR = {room: at for at, rooms in enumerate((*FLOORS, ("__init__", "__main__"))) for room in rooms}


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    """Which module imports which, those for types and those inside of functions too."""
    return grimp.build_graph("vmaforensics", include_external_packages=True, cache_dir=None)


def _ours(imports: grimp.ImportGraph) -> list[str]:
    return sorted(module for module in imports.modules if module.split(".")[0] == "vmaforensics")


def _room(module: str) -> str:
    return [*module.split("."), "__init__"][1]


def test_every_room_has_its_floor(imports: grimp.ImportGraph) -> None:
    assert {_room(module) for module in _ours(imports)} == set(FLOOR)


def test_no_import_leads_up(imports: grimp.ImportGraph) -> None:
    wrong = [
        f"{module} imports {other}"
        for module in _ours(imports)
        for other in sorted(imports.find_modules_directly_imported_by(module))
        if other.startswith("vmaforensics.")
        and _room(other) != _room(module)
        and FLOOR[_room(other)] >= FLOOR[_room(module)]
    ]
    assert not wrong


def test_no_import_leads_around(imports: grimp.ImportGraph) -> None:
    ours = set(_ours(imports))
    sorter = TopologicalSorter({module: imports.find_modules_directly_imported_by(module) & ours for module in ours})
    try:
        sorter.prepare()
    except CycleError as circle:
        pytest.fail(" → ".join(circle.args[1]))


def test_the_engine_knows_of_no_door(imports: grimp.ImportGraph) -> None:
    wrong = [
        f"{module} imports {other}"
        for module in _ours(imports)
        if _room(module) in ENGINE
        for other in imports.find_modules_directly_imported_by(module)
        if other in NOT_IN_THE_ENGINE
    ]
    assert not wrong


def test_the_picture_shows_the_house_as_it_is() -> None:
    assert (ROOT / "docs/images/house.svg").read_text(encoding="utf-8") == picture(), "make house"
