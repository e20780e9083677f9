"""What is said of the entries of one page table holds for those that hold the same, and for no others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from views.user_memory import ACCESSED, DIRTY, PRESENT, USER, WRITE, UserMemory, present

from vmaforensics.checks.pages.entry_facts import entry_facts
from vmaforensics.checks.pages.entry_sums import EntrySums
from vmaforensics.checks.pages.equal_tables import equal_tables
from vmaforensics.checks.pages.page_marks import Mark, entry_marks
from vmaforensics.views.pages import page_tables
from vmaforensics.views.pages.read_entries import ReadEntries
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context
    from vmaforensics.views.views import Views

AT, SIZE, COUNT = 0x4000_0000, 4 << 20, 80
FIRST = 400  # frame of the file's first page
MAPPING, NO_EXECUTE = 0xFFFF_8880_2000_0000, 1 << 63
ENTRY = PRESENT | USER | NO_EXECUTE


def shared(monkeypatch: pytest.MonkeyPatch, *changes: dict[int, int], **vma: dict[int, int]) -> Views:
    """Processes that map the same 80 pages of a file at one address, the third of which lies elsewhere in the file.

    ``changes`` are for each process the entries it has otherwise; ``vma`` are members of the VMA of some process."""
    monkeypatch.setattr(page_tables, "_KEPT", 0)
    memory = UserMemory(pages=512)
    for number in range(COUNT):
        memory.page(FIRST + number, mapping=MAPPING, index=number if number != 2 else 77, mapcount=len(changes))
    for change in changes:
        mm = memory.add_mm()
        for number in range(COUNT):
            memory.map(mm, AT + (number << 12), change.get(number, present(FIRST + number, ENTRY)))
    vmas, entries = memory.ranges(*((row, AT, AT + SIZE) for row in range(len(changes))))
    vmas.kind[:], vmas.file[:], vmas.file_row[:] = Kind.FILE, 0x1000, 0
    vmas.flags[:] = flags.VM_READ
    for name, values in vma.items():
        for row, value in values.items():
            getattr(vmas, name)[row] = value
    view = memory.gather(vmas, entries)
    assert isinstance(view.entries, ReadEntries)
    true = np.ones(1, np.bool_)
    files = SimpleNamespace(rows=SimpleNamespace(regular=true, ok=true, mapping=np.array([MAPPING], np.uint64)))
    made: Any = SimpleNamespace(page_tables=view, vmas=vmas, mms=memory.mm_table(), files=files, arch=view.arch)
    return cast("Views", made)


def owners(views: Views) -> dict[int, int]:
    """The process of each table that is equal to another, and that of this one."""
    view = views.page_tables
    assert view is not None
    assert isinstance(view.entries, ReadEntries)
    equal = equal_tables(views, view)
    return dict(zip(view.entries.owners(equal.tables).tolist(), view.entries.owners(equal.first).tolist(), strict=True))


def assert_all_are_told(views: Views) -> None:
    """The facts are those of every entry looked at by itself."""
    facts = entry_facts(cast("Context", SimpleNamespace(views=views)))
    view = views.page_tables
    assert view is not None
    ptes = view.entries.all()
    words = entry_marks(views, ptes)
    assert facts.row.tolist() == np.flatnonzero(words).tolist()
    assert facts.word.tolist() == words[words != 0].tolist()
    sums = EntrySums(view, len(views.mms))
    sums.add(*sums.of(ptes))
    assert facts.sums.pages.tolist() == sums.pages.tolist()


def test_tables_are_equal_whatever_was_accessed(monkeypatch: pytest.MonkeyPatch) -> None:
    touched = {number: present(FIRST + number, ENTRY | ACCESSED | DIRTY) for number in range(0, COUNT, 3)}
    views = shared(monkeypatch, {}, touched, {5: present(FIRST + 5, ENTRY | ACCESSED)})
    assert owners(views) == {1: 0, 2: 0}
    assert_all_are_told(views)
    facts = entry_facts(cast("Context", SimpleNamespace(views=views)))
    assert facts.row.tolist() == [2, COUNT + 2, 2 * COUNT + 2]
    assert set(facts.word.tolist()) == {int(Mark.OTHER_OFFSET)}
    assert facts.sums.pages[:, 0].tolist() == [COUNT] * 3


@pytest.mark.parametrize(
    ("number", "entry"),
    [
        (7, present(FIRST + 8, ENTRY)),
        (7, present(FIRST + 7, ENTRY | WRITE)),
        (7, present(FIRST + 7, PRESENT | USER)),
        (7, 0),
        (7, present(FIRST + 7, USER | ACCESSED)),
    ],
    ids=["frame", "writable", "executable", "none", "absent"],
)
def test_a_table_with_another_entry_is_looked_at(monkeypatch: pytest.MonkeyPatch, number: int, entry: int) -> None:
    views = shared(monkeypatch, {}, {number: entry}, {})
    assert owners(views) == {2: 0}
    assert_all_are_told(views)


def test_two_entries_that_are_executable_do_not_make_up_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {number: present(FIRST + number, PRESENT | USER) for number in (7, 8)}
    views = shared(monkeypatch, {}, changed, {})
    assert owners(views) == {2: 0}
    assert_all_are_told(views)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flags", flags.VM_READ | flags.VM_WRITE),
        ("pgoff", 3),
        ("anon_vma", MAPPING + 0x100),
        ("kind", int(Kind.ANONYMOUS)),
        ("start", AT + 0x1000),
        ("end", AT + SIZE - 0x1000),
        ("mm", 0x1234),
    ],
)
def test_a_table_under_another_vma_is_looked_at(monkeypatch: pytest.MonkeyPatch, name: str, value: int) -> None:
    views = shared(monkeypatch, {}, {}, {}, **{name: {1: value}})
    assert owners(views) == {2: 0}
    assert_all_are_told(views)


def test_tables_with_few_entries_are_all_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    few: dict[int, int] = dict.fromkeys(range(20, COUNT), 0)
    views = shared(monkeypatch, few, few)
    assert owners(views) == {}
    assert_all_are_told(views)
