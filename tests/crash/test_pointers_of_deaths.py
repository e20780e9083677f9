"""Guests that died of a word that the recipe changed: registers, stack and fault lead to that word."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest
from support import ROOT

from vmaforensics.cli.main import main
from vmaforensics.crash.document import CrashDocument
from vmaforensics.errors import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.crash.document import ComplaintPart
    from vmaforensics.crash.pointers_document import PointersPart

WAYS = (
    "maple-slot",
    "vma-file",
    "vma-mm",
    "list",
    "page-mapping",
    "free-pointer",
    "softlockup",
    "map-count",
    "mapcount",
)


class Guest(NamedTuple):
    """An image of the recipe, and the first word that was changed in it."""

    path: Path
    way: str
    where: int
    changed: int  # bits


def guests() -> list[Guest]:
    """Those that have been made here."""
    found = []
    for manifest in sorted(ROOT.glob("build/images/*.json")):
        death = json.loads(manifest.read_bytes()).get("death")
        images = [path for end in ("elf", "kdump") if (path := manifest.with_suffix(f".{end}")).exists()]
        if death is not None and death["way"] in WAYS and images:
            edit = death["edits"][0]
            changed = int(edit["before"], 16) ^ int(edit["after"], 16)
            found.append(Guest(images[0], death["way"], int(edit["address"], 16), changed))
    return found


GUESTS = [pytest.param(guest, id=guest.path.stem) for guest in guests()]


def led_to(pointers: PointersPart, ended: ComplaintPart, way: str) -> set[int]:
    """Addresses of words that the page names, as far as a guest that died this way can."""
    if way in ("maple-slot", "vma-file", "vma-mm"):
        assert ended.fault is not None
        return {int(word.address, 16) for word in ended.words if word.address is not None}
    if way == "list":
        return {int(said.value, 16) for said in pointers.said if said.name == "prev"}
    return {int(pointer.value, 16) for pointer in pointers.registers}


@pytest.mark.image
@pytest.mark.skipif(not GUESTS, reason="the recipe's dead guests have not been made")
@pytest.mark.parametrize("guest", GUESTS)
def test_the_page_leads_to_the_word_that_was_changed(guest: Guest, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["crash", str(guest.path), "--format", "json"]) == ExitCode.OK
    document = msgspec.json.decode(capfdbinary.readouterr().out, type=CrashDocument)
    pointers, ended = document.pointers, next(complaint for complaint in document.complaints if complaint.ended)
    assert pointers is not None
    named = [*pointers.registers, *(word.pointer for word in pointers.stack)]
    objects = [int(pointer.object, 16) for pointer in named if pointer.object is not None]
    if guest.way == "free-pointer":  # the object has been handed out since; the list has come to what it led to
        assert ended.fault is not None
        assert any("list of free objects" in note for note in ended.notes)
        assert guest.changed in [int(near.changed, 16) for near in ended.fault.nearly]
    elif guest.way in ("page-mapping", "mapcount"):
        assert any(start <= guest.where < start + 64 for start in objects)
    elif guest.way == "map-count":
        assert any(start <= guest.where < start + 4096 for start in objects)
    else:
        assert guest.where in led_to(pointers, ended, guest.way)
