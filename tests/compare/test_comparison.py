"""One table of records beside each other, on views made by hand: what each record says of a VMA."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from checks.handmade_views import Process, add_problem, drop_entry, entry_row, mm_of, views_of, vma_row

from compare.records_by_hand import (
    ENTRIES,
    PAGE,
    SLAB_PAGE,
    add_anchors,
    add_page_tables,
    add_reverse_maps,
    add_slab,
)
from vmaforensics.arch.page_tables import PteState
from vmaforensics.compare.anchor_cells import anchor_names
from vmaforensics.compare.cells import CellState, IndexCells
from vmaforensics.compare.comparison import compare_records
from vmaforensics.compare.records import records_near, records_of_mm
from vmaforensics.compare.records_document import Cell
from vmaforensics.errors import UsageError
from vmaforensics.views.indices.entries import IndexEntries
from vmaforensics.views.problems import Problem
from vmaforensics.views.slab.objects import State
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

PID = 100
CODE, STACK = 0x400000, 0x7F0000
VMAS = ("400000-402000 r-xp /bin/cat", "7f0000-7f4000 rw-p [stack]")
HELD, MISSING, UNREAD, NONE = CellState


def one_process(index: str = "maple", *vmas: str) -> Views:
    return views_of(Process(pid=PID, vmas=vmas or VMAS), index=index)


def with_all_records() -> Views:
    """A process of two VMAs that every record knows."""
    views = one_process()
    stack = vma_row(views, STACK)
    views.vmas.anon_vma[stack] = 0xFFFF_8900_2000_0000
    add_page_tables(views, {CODE: PteState.PRESENT, STACK: PteState.PRESENT, STACK + PAGE: PteState.SWAP})
    add_slab(views, dict.fromkeys(views.vmas.vma.tolist(), State.ALLOCATED))
    add_reverse_maps(views)
    views.mms.start_code[:] = CODE
    add_anchors(views, ip=(CODE + 8,))
    return views


def states(views: Views) -> dict[str, list[int]]:
    return {view.label: cells.state.tolist() for view, cells in compare_records(views).cells().items()}


def test_a_vma_that_all_records_know_is_held_by_each() -> None:
    assert states(with_all_records()) == {
        "maple tree": [HELD, HELD],
        "page tables": [HELD, HELD],
        "slab": [HELD, HELD],
        "i_mmap": [HELD, NONE],  # the stack has no file
        "anon_vma": [NONE, HELD],  # the code has no page of its own
        "anchors": [HELD, NONE],
    }


def test_of_two_entries_that_lead_to_one_vma_the_first_counts() -> None:
    views = one_process()
    assert views.maple is not None
    code = views.maple.take(np.array([entry_row(views.maple, CODE)]))
    stack = views.maple.take(np.array([entry_row(views.maple, STACK)]))
    again = code.replace(start=stack.end, end=stack.end + PAGE, slot=stack.slot + 8)
    views.maple = IndexEntries.concatenate([code, stack, again])
    vars(views).pop("union", None)
    cells = compare_records(views).cells()[View.MAPLE]
    assert isinstance(cells, IndexCells)
    assert set(cells.slot.tolist()) == {*code.slot.tolist(), *stack.slot.tolist()}
    assert set(cells.state.tolist()) == {HELD}


def test_cells_hold_facts_and_the_document_their_text() -> None:
    views = with_all_records()
    compared = compare_records(views)
    assert compared.page_tables is not None and compared.anchors is not None and compared.slab is not None
    assert compared.page_tables.mapped.tolist() == [1, 1]
    assert compared.page_tables.swapped.tolist() == [0, 1]
    assert compared.page_tables.where.tolist() == [ENTRIES, ENTRIES + 8]
    assert compared.slab.page.tolist() == [SLAB_PAGE, SLAB_PAGE + 64]
    assert anchor_names(int(compared.anchors.names[0])) == ["RIP", "start_code"]
    code, stack = records_of_mm(views, mm_of(PID)).document().rows
    assert (code.start, code.end, code.perms, code.name) == ("0x400000", "0x402000", "r-xp", "/bin/cat")
    assert code.cells["anchors"] == Cell(state="held", note="RIP start_code")
    assert stack.cells["page tables"] == Cell(state="held", address=hex(ENTRIES + 8), note="1 page, 1 swapped")
    assert stack.cells["i_mmap"] == Cell(state="none")


def test_a_vma_that_the_index_lacks_is_missing_there_and_known_to_the_slab() -> None:
    views = with_all_records()
    assert views.strays is not None
    hidden = views.vmas.take(slice(1, 2))
    drop_entry(views, STACK)
    views.vmas = views.vmas.take(slice(0, 1))
    views.names = views.names.take(slice(0, 1))
    add_slab(views, dict.fromkeys([*views.vmas.vma.tolist(), *hidden.vma.tolist()], State.ALLOCATED), hidden)
    compared = compare_records(views)
    assert compared.vmas.start.tolist() == [CODE, STACK]
    assert compared.vmas.vma_row.tolist() == [0, -1]
    assert compared.indices[View.MAPLE].state.tolist() == [HELD, MISSING]
    assert compared.slab is not None
    assert compared.slab.state.tolist() == [HELD, HELD]


def test_what_an_index_does_not_hold_is_unread_where_a_part_of_it_is_lost() -> None:
    views = one_process("list")
    drop_entry(views, STACK, "vma_list")
    assert states(views)["vm_next list"] == [HELD, MISSING]
    add_problem(views, View.LIST, Problem.UNREADABLE, mm_of(PID))
    assert states(views)["vm_next list"] == [HELD, UNREAD]


def test_a_vma_that_cannot_be_read_has_the_bounds_of_its_index() -> None:
    views = one_process()
    row = vma_row(views, STACK)
    views.vmas.ok[row], views.vmas.start[row], views.vmas.end[row] = False, 0, 0
    compared = compare_records(views)
    assert (compared.vmas.start.tolist(), compared.vmas.end.tolist()) == (
        [CODE, STACK],
        [CODE + 0x2000, STACK + 0x4000],
    )
    assert compared.agrees().all()
    assert records_of_mm(views, mm_of(PID)).document().rows[1].perms == "?"


def test_a_maple_entry_with_other_bounds_counts_as_missing_and_says_which() -> None:
    views = one_process()
    assert views.maple is not None
    views.maple.end[entry_row(views.maple, STACK)] -= PAGE
    compared = compare_records(views)
    assert compared.indices[View.MAPLE].state.tolist() == [HELD, MISSING]
    assert compared.agrees().tolist() == [True, False]
    cell = records_of_mm(views, mm_of(PID)).document().rows[1].cells["maple tree"]
    assert (cell.state, cell.note) == ("missing", "as 7f0000-7f3000")
    assert cell.address is not None


def test_a_vma_of_another_address_space_does_not_agree() -> None:
    views = views_of(Process(pid=PID), Process(pid=PID + 1))
    views.vmas.mm[0] = mm_of(PID + 1)
    assert compare_records(views).agrees().tolist() == [False, True, True, True]


def test_entries_without_a_vma_are_runs_that_every_index_is_missing() -> None:
    views = one_process()
    lost = 0x500000
    add_page_tables(views, {CODE: PteState.PRESENT, lost: PteState.PRESENT, lost + PAGE: PteState.PRESENT})
    compared = compare_records(views)
    assert compared.runs.start.tolist() == [lost]
    assert compared.runs.end.tolist() == [lost + 2 * PAGE]
    assert compared.runs.pages.tolist() == [2]
    assert compared.shown_order().tolist() == [0, 2, 1]
    row = records_of_mm(views, mm_of(PID)).document().rows[1]
    assert (row.vma, row.perms, row.name) == (None, "rwx", "holds an ELF header")
    assert row.cells == {
        "maple tree": Cell(state="missing"),
        "page tables": Cell(state="held", address=hex(ENTRIES + 8), note="2 pages"),
    }


def test_no_entry_is_no_disagreement_unless_the_tables_are_lost() -> None:
    views = one_process()
    add_page_tables(views, {CODE: PteState.PRESENT})
    assert states(views)["page tables"] == [HELD, NONE]
    add_page_tables(views, {CODE: PteState.PRESENT}, whole=False)
    assert states(views)["page tables"] == [HELD, UNREAD]


@pytest.mark.parametrize(
    ("state", "foreign", "cell"),
    [
        (State.FREE, False, Cell(state="missing", address=hex(SLAB_PAGE + 64), note="(free)")),
        (State.UNKNOWN, False, Cell(state="unread")),
        (None, True, Cell(state="missing", note="(outside the cache)")),
        (None, False, Cell(state="unread")),
    ],
)
def test_what_the_slab_says(state: State | None, foreign: bool, cell: Cell) -> None:
    views = one_process()
    code, stack = views.vmas.vma.tolist()
    objects = {code: State.ALLOCATED} | ({} if state is None else {stack: state})
    add_slab(views, objects, foreign=[stack] * foreign)
    assert records_of_mm(views, mm_of(PID)).document().rows[1].cells["slab"] == cell


def test_a_node_in_the_tree_of_another_file_is_told_with_that_tree() -> None:
    views = with_all_records()
    assert views.rmap is not None
    views.rmap.file_nodes.tree[:] = 0xFFFF_8A00_0000_0000
    cell = records_of_mm(views, mm_of(PID)).document().rows[0].cells["i_mmap"]
    assert (cell.state, cell.note) == ("missing", "in that of 0xffff8a0000000000")


def test_a_file_without_a_node_is_missing_only_if_its_tree_was_read() -> None:
    views = with_all_records()
    assert views.rmap is not None
    views.rmap.file_nodes.vma[:] = 0
    assert states(views)["i_mmap"] == [MISSING, NONE]
    views.rmap.mappings.whole[:] = False
    assert states(views)["i_mmap"] == [UNREAD, NONE]


def test_links_without_an_anon_vma_are_counted() -> None:
    views = with_all_records()
    views.vmas.anon_vma[:] = 0
    cell = records_of_mm(views, mm_of(PID)).document().rows[1].cells["anon_vma"]
    assert cell == Cell(state="missing", note="(1 links)")


def test_only_the_address_spaces_asked_for_are_compared() -> None:
    views = views_of(Process(pid=PID), Process(pid=PID + 1), Process(pid=PID + 2))
    add_page_tables(views, {0x500000: PteState.PRESENT})
    compared = compare_records(views, np.array([mm_of(PID + 1)], np.uint64))
    assert set(compared.vmas.mm.tolist()) == {mm_of(PID + 1)}
    assert len(compared.vmas) == 2
    assert len(compared.runs) == 0
    assert all(len(cells) == 2 for cells in compared.cells().values())


def test_an_image_without_any_vma() -> None:
    views = views_of()
    compared = compare_records(views)
    assert (len(compared.vmas), len(compared.runs)) == (0, 0)
    with pytest.raises(UsageError):
        records_of_mm(views, mm_of(PID))


def test_rows_far_from_findings_are_left_out_first() -> None:
    many = tuple(f"{0x400000 + at * 0x2000:x}-{0x401000 + at * 0x2000:x} rw-p" for at in range(40))
    views = one_process("maple", *many)
    whole = records_of_mm(views, mm_of(PID))
    few = records_near(whole, [(0x400000 + 20 * 0x2000, 0x401000 + 20 * 0x2000)], 5)
    assert few.left_out == 35
    assert few.compared.vmas.start.tolist() == [0x400000 + at * 0x2000 for at in range(18, 23)]
    assert records_near(whole, [], 100).compared.vmas.start.tolist() == whole.compared.vmas.start.tolist()


def test_runs_of_entries_are_left_out_before_vmas() -> None:
    views = one_process()
    add_page_tables(views, {0x500000 + at * 2 * PAGE: PteState.PRESENT for at in range(20)})
    few = records_near(records_of_mm(views, mm_of(PID)), [(0x500000 + 8 * PAGE, 0x500000 + 9 * PAGE)], 4)
    assert few.compared.vmas.start.tolist() == [CODE, STACK]
    assert few.compared.runs.start.tolist() == [0x500000, 0x500000 + 8 * PAGE]
    assert few.left_out == 18
