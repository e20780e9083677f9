"""Our symbol files say of types and symbols what dwarf2json's say, which come from debugging information."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import WHOLE

from vmaforensics.export.isf.document import isf_document
from vmaforensics.export.isf.variables import VARIABLES

from .layouts import Isf, banner, enum_mark, symbol_mark, type_mark

if TYPE_CHECKING:
    from support import Sample

REFERENCE = json.loads((Path(__file__).parent / "reference.json").read_bytes())
_ARRAY = re.compile(r"\[\d+\]")


@pytest.fixture
def pair(document: Isf) -> tuple[Isf, Isf]:
    """The ISF of a sample's kernel, and what dwarf2json's said."""
    if banner(document) not in REFERENCE:
        pytest.skip("layouts.py has not been run for this kernel")
    return document, REFERENCE[banner(document)]


def test_structures_are_those_of_the_debugging_information(pair: tuple[Isf, Isf]) -> None:
    ours, theirs = pair
    assert len(theirs["types"]) > 100
    assert {name: type_mark(ours, name) for name in theirs["types"]} == theirs["types"]


def test_enumerations_are_those_of_the_debugging_information(pair: tuple[Isf, Isf]) -> None:
    ours, theirs = pair
    assert theirs["enums"]
    assert {name: enum_mark(ours, name) for name in theirs["enums"]} == theirs["enums"]


def test_symbols_lie_where_they_were_linked_to(sample: Sample, pair: tuple[Isf, Isf]) -> None:
    ours, theirs = pair
    kernel = sample.analysis.kernel
    assert kernel.identity.kaslr_offset
    known = [name for name in theirs["symbols"] if name in ours["symbols"]]
    assert len(known) > 60
    assert {"init_task", "init_files", "init_mm", "init_top_pgt", "linux_banner", "modules"} <= set(known)
    for name in known:
        stated = int(theirs["symbols"][name].split()[0], 16)
        same_name = kernel.symbols.find(name)  # static symbols of several files may share it; each file lists one
        if len(same_name) > 1:
            assert stated in [one - kernel.identity.kaslr_offset for one in same_name]
        else:
            assert ours["symbols"][name]["address"] == stated


def test_variables_have_the_types_of_the_debugging_information(pair: tuple[Isf, Isf]) -> None:
    ours, theirs = pair
    compared = 0
    for name in VARIABLES:
        if name in theirs["symbols"] and name in ours["symbols"]:
            stated, found = theirs["symbols"][name].split(" ", 1)[1], symbol_mark(ours, name).split(" ", 1)[1]
            assert _comparable(ours, found) == _comparable(ours, stated), name
            compared += 1
    assert compared > 40


def _comparable(isf: Isf, words: str) -> str:
    """A type without lengths, which may depend on the configuration and which volatility3 takes from elsewhere,
    and with a mark for the name of a structure, which may have another by a typedef."""
    start, _, name = _ARRAY.sub("[]", words).rpartition(" ")
    return f"{start} {type_mark(isf, name) if name in isf['user_types'] else name}"


def test_flags_of_tainted_kernels_are_counted(whole_kernel: Sample) -> None:
    """volatility3 takes the length of this array from the symbol file."""
    if not WHOLE:
        pytest.skip("excerpts do not hold the array; the recipe makes whole images")
    found = isf_document(whole_kernel.analysis.kernel)
    reference = REFERENCE.get(banner(found))
    if reference is None:
        pytest.skip("layouts.py has not been run for this kernel")
    assert symbol_mark(found, "taint_flags") == reference["symbols"]["taint_flags"]
