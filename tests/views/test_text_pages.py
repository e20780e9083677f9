"""Pages of code beside those of the page cache, byte by byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from handmade import BASE, LINUX, PAGE

from views.user_memory import ANON, NUMBERS, STRUCTS, UserMemory, present
from vmaforensics.views.pages.text_match import Match, TextPages
from vmaforensics.views.pages.text_pages import TextView, gather_text_pages
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.processes.tasks import Tasks
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.files import Files
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from vmaforensics.views.indices.entries import IndexEntries
    from vmaforensics.views.vmas.vmas import Vmas

START = 0x40_0000
PGOFF = 3
MOST = STRUCTS | {
    "address_space": "host:* i_pages:xarray i_mmap:rb_root_cached",
    "xarray": "xa_lock:u32 xa_flags:u32 xa_head:*",
    "xa_node": "shift:u8 offset:u8 count:u8 nr_values:u8 parent:* array:* private_list:list_head slots:*[64]",
    "task_struct": LINUX["task_struct"] + " ptrace:u32",
    "uprobe": "rb_node:rb_node ref:i32 inode:* offset:i64",
}
CODE = bytes(range(1, 101)) + bytes(PAGE - 100)
INODE = 0xFFFF_8880_0000_9900


class Program(UserMemory):
    """A process that runs one page of one file, of which the page cache has the page."""

    def __init__(self) -> None:
        super().__init__(MOST, NUMBERS)
        self.mm = self.add_mm()
        self.cached, self.copy = self.frame(), self.frame()
        self.fill(self.cached, CODE)
        self.fill(self.copy, CODE)
        self.mapping = self.put("address_space", {"host": INODE})
        own = self.page(self.cached, mapping=self.mapping, index=PGOFF)
        self.node = self.put("xa_node", {"shift": 0, "slots": [0] * PGOFF + [own]})
        self.set("address_space", self.mapping, "i_pages.xa_head", self.node + 2)
        self.page(self.copy, mapping=0xFFFF_8880_0000_8800 | ANON, mapcount=1)
        self.task = self.put("task_struct")
        self.symbols["uprobes_tree"] = self.room(8)

    def fill(self, pfn: int, data: bytes) -> None:
        self.write(BASE + pfn * PAGE, data)

    def patch(self, at: int, data: bytes) -> None:
        """Change the process's copy."""
        self.write(BASE + self.copy * PAGE + at, data)

    def add_probe(self, offset: int) -> None:
        """Register a uprobe ``offset`` bytes into the page."""
        probe = self.put("uprobe", {"inode": INODE, "offset": PGOFF * PAGE + offset})
        self.word(self.symbols["uprobes_tree"], probe)

    def compare(self, pfn: int, *, vm_flags: int = flags.VM_READ | flags.VM_EXEC) -> TextView:
        """What is said of the process with frame ``pfn`` mapped."""
        self.map(self.mm, START, present(pfn))
        vmas, entries = self.ranges((self.mm, START, START + PAGE))
        vmas.flags[:], vmas.file_row[:], vmas.pgoff[:], vmas.kind[:] = vm_flags, 0, PGOFF, Kind.FILE
        files = Files.of(file=[1], ok=[True], mapping=[self.mapping], regular=[True])
        tasks = Tasks.of(task=[self.task], mm=[self.mms[self.mm]], ok=[True])
        return self.judge(vmas, entries, files, tasks)

    def judge(self, vmas: Vmas, entries: IndexEntries, files: Files, tasks: Tasks) -> TextView:
        view = self.gather(vmas, entries)
        return gather_text_pages(self.kernel(), tasks, vmas, files, view, ProblemLog())


@pytest.fixture
def program() -> Program:
    return Program()


def only(found: TextView) -> TextPages:
    assert len(found.pages) == 1
    return found.pages


def first(values: NDArray[Any]) -> int:
    return int(values[0])


def test_the_page_of_the_page_cache_itself_is_not_told(program: Program) -> None:
    found = program.compare(program.cached)
    assert (len(found.pages), found.judged, found.unindexed, found.probes_known) == (0, 1, 0, True)


def test_a_copy_of_the_same_bytes_is_equal(program: Program) -> None:
    pages = only(program.compare(program.copy))
    assert first(pages.match) == Match.EQUAL
    assert (first(pages.va), first(pages.pfn), first(pages.cached)) == (START, program.copy, program.cached)
    assert first(pages.index) == PGOFF


def test_data_is_not_compared(program: Program) -> None:
    program.patch(10, b"\xff")
    assert program.compare(program.copy, vm_flags=flags.VM_READ | flags.VM_WRITE).judged == 0


def test_changed_bytes_are_counted_and_shown(program: Program) -> None:
    program.patch(10, b"\xff\xfe")
    program.patch(50, b"\xfd")
    pages = only(program.compare(program.copy))
    assert first(pages.match) == Match.DIFFERS
    assert (first(pages.first), first(pages.count), first(pages.probed), first(pages.breakpoints)) == (10, 3, 0, 0)
    assert pages.now[0].tolist() == [0xFF, 0xFE, *CODE[12:18]]
    assert pages.was[0].tolist() == list(CODE[10:18])


def test_what_stands_at_the_end_of_the_page_is_shown_no_further(program: Program) -> None:
    program.patch(PAGE - 1, b"\xff")
    pages = only(program.compare(program.copy))
    assert first(pages.first) == PAGE - 1
    assert pages.now[0].tolist() == [0xFF] * 8


def test_breakpoints_of_a_debugger_are_counted(program: Program) -> None:
    program.set("task_struct", program.task, "ptrace", 1)
    program.patch(10, b"\xcc")
    pages = only(program.compare(program.copy))
    assert (first(pages.breakpoints), bool(pages.traced[0])) == (1, True)


@pytest.mark.parametrize(("written", "size"), [(b"\xcc", 1), (b"\xe8\x11\x22\x33\x44", 5)])
def test_bytes_of_a_registered_probe_are_told_apart(program: Program, written: bytes, size: int) -> None:
    program.add_probe(20)
    program.patch(20, written)
    program.patch(60, b"\xff")
    pages = only(program.compare(program.copy))
    assert (first(pages.count), first(pages.probed), first(pages.breakpoints)) == (size + 1, size, 0)
    assert first(pages.first) == 60  # what no probe explains is shown


def test_a_breakpoint_beside_a_probe_is_not_the_probes(program: Program) -> None:
    program.add_probe(20)
    program.patch(21, b"\xcc")
    pages = only(program.compare(program.copy))
    assert (first(pages.probed), first(pages.breakpoints)) == (0, 1)


def test_contents_that_are_not_in_the_image_are_not_compared(program: Program) -> None:
    program.drop(BASE + program.copy * PAGE)
    assert first(only(program.compare(program.copy)).match) == Match.NOT_IN_DUMP


def test_a_page_that_the_page_cache_has_let_go_is_not_compared(program: Program) -> None:
    program.set("xa_node", program.node, "slots", [0] * 64)
    assert first(only(program.compare(program.copy)).match) == Match.NOT_CACHED


def test_a_page_that_names_its_place_is_the_files_even_if_the_index_has_let_it_go(program: Program) -> None:
    program.set("xa_node", program.node, "slots", [0] * 64)
    assert len(program.compare(program.cached).pages) == 0


def test_an_index_that_is_not_in_the_image_says_nothing() -> None:
    program = Program()
    far = program.room(PAGE, PAGE)
    program.set("address_space", program.mapping, "i_pages.xa_head", far + 2)
    program.drop(far)
    assert first(only(program.compare(program.copy)).match) == Match.NOT_INDEXED
    assert program.compare(program.cached).unindexed == 1
