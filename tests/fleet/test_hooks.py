"""Rows of ``hooks``, of a road made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from checks.road.handmade_road import LISTED, NOBODYS, SHOWS, road

from vmaforensics.fleet.hooks import hooks_of
from vmaforensics.views.road.pointers import Group, Leads, Pointers, Source

if TYPE_CHECKING:
    from support import Sample

OPS = Group(name="vm_area_struct", struct="vm_area_struct.vm_ops")


def _hooks(
    source: Source, leads: Leads, target: int, group: Group = OPS, *, alien: bool = False
) -> list[tuple[str, ...]]:
    """The rows that three objects of a kind give."""
    pointers = Pointers.of(
        at=[SHOWS, SHOWS + 8, SHOWS + 16],
        word=[0, 1, 2],
        target=[target] * 3,
        source=[source] * 3,
        leads=[leads] * 3,
        alien=[alien] * 3,
    )
    found, left_out = hooks_of(road(pointers=pointers, groups=[group]).road)
    assert left_out == 0
    return [tuple(row) for row in found.tolist()]


def test_mappings_of_a_file_system_that_is_a_module_are_no_hooks() -> None:
    assert _hooks(Source.MAPPED, Leads.MODULE, LISTED) == []


def test_a_mapping_by_a_table_of_another_module_is_one_row_that_names_member_and_module() -> None:
    assert _hooks(Source.MAPPED, Leads.MODULE, LISTED, alien=True) == [
        ("pointer", "vm_area_struct.vm_ops", "module agent", "")
    ]


@pytest.mark.parametrize("leads", [Leads.NOWHERE, Leads.UNLISTED, Leads.MADE])
def test_many_objects_that_lead_elsewhere_are_one_row_without_their_numbers(leads: Leads) -> None:
    assert _hooks(Source.MAPPED, leads, NOBODYS) == [("pointer", "vm_area_struct.vm_ops", leads.text, "")]
    inode = Group(name="inode", struct="inode.i_fop")
    assert _hooks(Source.OBJECT, leads, NOBODYS, inode) == [("pointer", "inode.i_fop", leads.text, "")]


def test_the_data_of_a_module_has_its_name(maple_sample: Sample) -> None:
    """The /proc entries of ext4 lead to tables in its read-only data."""
    found, _ = hooks_of(maple_sample.analysis.views.road)
    assert {row["owner"] for row in found if row["kind"] == "pointer"} <= {"module ext4", "module jbd2"}
