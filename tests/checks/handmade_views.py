"""Views made by hand from a few words, so that a rule is tested on the rows it is about, in milliseconds.

    views = views_of(Process(pid=100, vmas=("400000-402000 r-xp /bin/cat", "7f0000-7f4000 rw-p [stack]")))
    views.vmas.end[vma_row(views, 0x400000)] += 0x1000  # break one record
    (finding,) = findings(views, "VMA-RANGE")

A VMA is a line of ``/proc/PID/maps``: range, permissions, path. ``[stack]`` grows down; a path that begins with
``/memfd:`` is shared memory, and one that ends with ``(deleted)`` has no link left. Counters, index, tree nodes and
tasks follow from the VMAs as the kernel would leave them. What is in no table of :class:`Views` by default (slab,
page tables, reverse maps …) is None; tests put their own there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.context import Context
from vmaforensics.checks.registry import rule_modules
from vmaforensics.columns.texts import Texts
from vmaforensics.views.indices.entries import IndexEntries
from vmaforensics.views.indices.maple_nodes import MapleNodes
from vmaforensics.views.indices.rbtree import RbNodes
from vmaforensics.views.problems import Problem, Problems
from vmaforensics.views.processes.mms import MmOffsets, Mms
from vmaforensics.views.processes.tasks import Tasks
from vmaforensics.views.structures.lock import Lock
from vmaforensics.views.views import Views
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.files import Files, FileTable
from vmaforensics.views.vmas.kind import Kind
from vmaforensics.views.vmas.vmas import Vmas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.view import View

PAGE = 4096
TASK_SIZE = (1 << 47) - PAGE  # TASK_SIZE_MAX with four levels of page tables
STACK_GUARD_GAP = 256 * PAGE
MAX_INDEX = (1 << 64) - 1

TASKS, MMS, VMAS, FILES, NODES, INODES = (0xFFFF_8880_0000_0000 + (number << 28) for number in range(1, 7))
FILE_OPS = 0xFFFF_FFFF_8200_0000  # vm_ops of all that has a file
SLOTS = 16  # of a maple_range_64
OFFSETS = {
    name: 8 * (number + 8)
    for number, name in enumerate(
        ("map_count", "total_vm", "exec_vm", "data_vm", "stack_vm", "locked_vm", "exe_file", "pgtables_bytes", "brk")
    )
}


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process with memory, in few words."""

    vmas: Sequence[str] = ("400000-402000 r-xp /bin/cat", "7f0000-7f4000 rw-p [stack]")
    pid: int = 100
    comm: bytes = b"cat"
    lock: Lock = Lock.FREE


@dataclass
class _Vma:
    address: int
    mm: int
    start: int
    end: int
    flags: int
    path: str
    kind: Kind = Kind.ANONYMOUS
    file: int = 0
    prev: int = 0
    gap: int = 0


@dataclass
class _Files:
    """One ``struct file`` for every path."""

    known: dict[str, int] = field(default_factory=dict)

    def file(self, path: str) -> int:
        """Address of the file of ``path``; 0 where there is none."""
        if not path or path.startswith("["):
            return 0
        return self.known.setdefault(path, FILES + 256 * len(self.known))

    def table(self) -> FileTable:
        """All of them."""
        paths = list(self.known)
        rows = Files.of(
            len(paths),
            file=list(self.known.values()),
            ok=[True] * len(paths),
            inode=[INODES + 1024 * number for number in range(len(paths))],
            mapping=[INODES + 1024 * number + 512 for number in range(len(paths))],
            nlink=[0 if path.endswith("(deleted)") else 1 for path in paths],
            regular=[True] * len(paths),
            shmem=[path.startswith("/memfd:") for path in paths],
        )
        return FileTable(rows=rows, paths=[path.encode() for path in paths])


def mm_of(pid: int) -> int:
    """Address of the mm_struct of process ``pid``."""
    return MMS + PAGE * pid


def task_of(pid: int) -> int:
    """Address of the task_struct of process ``pid``."""
    return TASKS + PAGE * pid


def vma_row(views: Views, start: int) -> int:
    """Row of the only VMA that begins at ``start``."""
    (row,) = np.flatnonzero(views.vmas.start == np.uint64(start)).tolist()
    return int(row)


def entry_row(entries: IndexEntries | None, start: int) -> int:
    """Row of the only entry of an index that begins at ``start``."""
    assert entries is not None
    (row,) = np.flatnonzero(entries.start == np.uint64(start)).tolist()
    return int(row)


def findings(views: Views, rule: str) -> list[Finding]:
    """What the check of ``rule`` says of ``views``, neither weighed nor joined."""
    (module,) = (module for module in rule_modules() if module.rule.id == rule)
    return list(module.check(Context(views)))


def add_problem(views: Views, view: View, problem: Problem, mm: int = 0, where: int = 0, value: int = 0) -> None:
    """One more row of ``views.problems``."""
    row = Problems.of(view=[view], problem=[problem], mm=[mm], where=[where], value=[value])
    views.problems = Problems.concatenate([views.problems, row])


def drop_entry(views: Views, start: int, index: str = "maple") -> None:
    """Take the VMA that begins at ``start`` out of an index: "maple", "vma_list" or "rbtree". Nodes stay."""
    entries: IndexEntries = getattr(views, index)
    setattr(views, index, entries.take(entries.start != np.uint64(start)))
    vars(views).pop("union", None)


def views_of(*processes: Process, index: str = "maple", per_leaf: int = 12) -> Views:
    """The views of an image with these processes, in the order of their pids.

    ``index`` is "maple", or "list" for the list and the red-black tree of kernels up to 6.0. A maple leaf holds at most
    ``per_leaf`` ranges; more than that make a tree of two levels.
    """
    files = _Files()
    vmas: list[list[_Vma]] = []
    for process in processes:
        before = sum(map(len, vmas))
        vmas.append([_parse(line, mm_of(process.pid), before + at, files) for at, line in enumerate(process.vmas)])
    every = [vma for of_one in vmas for vma in of_one]
    views = Views(
        tasks=_tasks(processes),
        mms=_mms(processes, vmas),
        mm_offsets=MmOffsets(**OFFSETS),
        vma_size=192,
        stack_guard_gap=STACK_GUARD_GAP,
        names=Texts.of(vma.path.encode() for vma in every),
        files=files.table(),
    )
    if index == "maple":
        nodes = [_maple(of_one, process.pid, per_leaf) for process, of_one in zip(processes, vmas, strict=True)]
        views.maple_nodes = _joined(nodes)
        views.maple = _entries(vmas, [VMAS] * len(every))
        root = {int(nodes.mm[0]): int(nodes.address[0]) for nodes in nodes}
        views.mms.ma_root[:] = [root[mm] | 0x1E for mm in views.mms.mm.tolist()]
        views.mms.ma_flags[:] = [int(nodes.depth.max()) << 2 for nodes in nodes]
    else:
        views.vma_list = _entries(vmas, [vma.address + 16 for vma in every])
        views.rbtree = _entries(vmas, [vma.address + 32 for vma in every])
        views.rb_nodes = _rbtree(vmas)
        views.mms.highest_vm_end[:] = [of_one[-1].end for of_one in vmas]
    views.vmas = _vma_table(every, files)
    return views


def _parse(line: str, mm: int, number: int, files: _Files) -> _Vma:
    bounds, allowed, *path = line.split(maxsplit=2)
    start, end = (int(bound, 16) for bound in bounds.split("-"))
    bits = {"r": flags.VM_READ, "w": flags.VM_WRITE, "x": flags.VM_EXEC, "s": flags.VM_SHARED}
    vm_flags = sum(bits.get(letter, 0) for letter in allowed)
    name = path[0] if path else ""
    if name == "[stack]":
        vm_flags |= flags.VM_GROWSDOWN
    file = files.file(name)
    kind = Kind.ANONYMOUS if not file else Kind.SHARED_MEMORY if name.startswith("/memfd:") else Kind.FILE
    return _Vma(
        address=VMAS + 256 * number, mm=mm, start=start, end=end, flags=vm_flags, path=name, kind=kind, file=file
    )


def _tasks(processes: Sequence[Process]) -> Tasks:
    pids = [process.pid for process in processes]
    return Tasks.of(
        len(pids),
        task=[task_of(pid) for pid in pids],
        pid=pids,
        tgid=pids,
        comm=[process.comm for process in processes],
        mm=[mm_of(pid) for pid in pids],
        active_mm=[mm_of(pid) for pid in pids],
        leader=[True] * len(pids),
        ok=[True] * len(pids),
    )


def _mms(processes: Sequence[Process], vmas: list[list[_Vma]]) -> Mms:
    """Counters as vm_stat_account (mm/vma.c) keeps them: executable, else stack, else private and writable."""

    def pages(of_one: list[_Vma], counted: str) -> int:
        return sum((vma.end - vma.start) // PAGE for vma in of_one if counted in ("all", _class_of(vma.flags)))

    count = len(processes)
    return Mms.of(
        count,
        mm=[mm_of(process.pid) for process in processes],
        task=[task_of(process.pid) for process in processes],
        pid=[process.pid for process in processes],
        comm=[process.comm for process in processes],
        ok=[True] * count,
        lock=[process.lock for process in processes],
        users=[1] * count,
        count=[1] * count,
        map_count=[len(of_one) for of_one in vmas],
        total_vm=[pages(of_one, "all") for of_one in vmas],
        exec_vm=[pages(of_one, "exec") for of_one in vmas],
        data_vm=[pages(of_one, "data") for of_one in vmas],
        stack_vm=[pages(of_one, "stack") for of_one in vmas],
        task_size=[TASK_SIZE] * count,
    )


def _class_of(vm_flags: int) -> str:
    if vm_flags & flags.VM_EXEC and not vm_flags & (flags.VM_WRITE | flags.VM_GROWSDOWN):
        return "exec"
    if vm_flags & flags.VM_GROWSDOWN:
        return "stack"
    return "data" if vm_flags & flags.VM_WRITE and not vm_flags & flags.VM_SHARED else ""


def _entries(vmas: list[list[_Vma]], slots: list[int]) -> IndexEntries:
    every = [vma for of_one in vmas for vma in of_one]
    return IndexEntries.of(
        len(every),
        mm=[vma.mm for vma in every],
        vma=[vma.address for vma in every],
        start=[vma.start for vma in every],
        end=[vma.end for vma in every],
        slot=slots,
        order=[order for of_one in vmas for order in range(len(of_one))],
        vma_row=list(range(len(every))),
    )


def _vma_table(every: list[_Vma], files: _Files) -> Vmas:
    addresses = list(files.known.values())
    return Vmas.of(
        len(every),
        vma=[vma.address for vma in every],
        ok=[True] * len(every),
        start=[vma.start for vma in every],
        end=[vma.end for vma in every],
        mm=[vma.mm for vma in every],
        flags=[vma.flags for vma in every],
        page_prot=[_page_prot(vma.flags) for vma in every],
        file=[vma.file for vma in every],
        ops=[FILE_OPS if vma.file else 0 for vma in every],
        file_row=[addresses.index(vma.file) if vma.file else -1 for vma in every],
        kind=[vma.kind for vma in every],
        prev=[vma.prev for vma in every],
        gap=[vma.gap for vma in every],
        pgoff=[0 if vma.file else vma.start // PAGE for vma in every],
        anon_pgoff=[0 if vma.file else vma.start // PAGE for vma in every],
    )


def _page_prot(vm_flags: int) -> int:
    """protection_map (arch/x86/mm/pgprot.c): bits of entries as the Intel SDM vol. 3, 4.5, has them."""
    if not vm_flags & (flags.VM_READ | flags.VM_WRITE | flags.VM_EXEC):
        return 0
    writes = vm_flags & flags.VM_WRITE and vm_flags & flags.VM_SHARED
    return 0b101 | (0b10 if writes else 0) | (0 if vm_flags & flags.VM_EXEC else 1 << 63)


# The maple tree ----------------------------------------------------------------------------------------------


def _maple(vmas: list[_Vma], pid: int, per_leaf: int) -> MapleNodes:
    """The nodes of a tree that holds ``vmas``, ascending: leaves, and above them a root that records their gaps."""
    ranges: list[tuple[int, int]] = []  # (last index, entry), from index 0 on
    reach = 0
    for vma in vmas:
        if vma.start > reach:
            ranges.append((vma.start - 1, 0))
        ranges.append((vma.end - 1, vma.address))
        reach = vma.end
    ranges.append((MAX_INDEX, 0))
    leaves = [ranges[at : at + per_leaf] for at in range(0, len(ranges), per_leaf)]
    assert len(leaves) <= 10, "a tree of three levels is not made"
    mm, first = mm_of(pid), NODES + PAGE * pid
    inner = len(leaves) > 1
    count = len(leaves) + inner
    nodes = MapleNodes.of(
        count,
        mm=[mm] * count,
        address=[first + 256 * number for number in range(count)],
        kind=([3] if inner else []) + [1] * len(leaves),  # maple_arange_64, maple_leaf_64
        leaf=[False] * inner + [True] * len(leaves),
        gapped=[True] * inner + [False] * len(leaves),
        parent=[-1] * inner + [0 if inner else -1] * len(leaves),
        parent_slot=[0] * inner + list(range(len(leaves))),
        depth=[1] * inner + [1 + inner] * len(leaves),
        capacity=[10] * inner + [SLOTS] * len(leaves),
        slot_offset=[80] * inner + [128] * len(leaves),
        slots=np.zeros((count, SLOTS), np.uint64),
        pivots=np.zeros((count, SLOTS), np.uint64),
        gaps=np.zeros((count, SLOTS), np.uint64),
    )
    low = 0
    for number, leaf in enumerate(leaves):
        row, gap = number + inner, 0
        nodes.low[row], nodes.high[row], nodes.end[row] = low, leaf[-1][0], len(leaf) - 1
        for slot, (last, entry) in enumerate(leaf):
            nodes.slots[row, slot], nodes.pivots[row, slot] = entry, last
            gap = gap if entry else max(gap, last - low + 1)
            low = last + 1
        if inner:
            nodes.slots[0, number], nodes.pivots[0, number] = int(nodes.address[row]) | 0xC, leaf[-1][0]
            nodes.gaps[0, number] = gap
            nodes.expected_parent[row] = first | number << 3 | 6
        else:
            nodes.expected_parent[row] = mm + 64 | 1
    if inner:
        nodes.low[0], nodes.high[0], nodes.end[0] = 0, MAX_INDEX, len(leaves) - 1
        nodes.expected_parent[0] = mm + 64 | 1
        nodes.gap_slot[0] = nodes.gaps[0].argmax()
    nodes.parent_word[:] = nodes.expected_parent
    return nodes


def _joined(trees: list[MapleNodes]) -> MapleNodes:
    """Nodes of several trees as one table: rows of parents are counted over all."""
    before = 0
    for nodes in trees:
        nodes.parent[nodes.parent >= 0] += before
        before += len(nodes)
    return MapleNodes.concatenate(trees)


# The red-black tree ------------------------------------------------------------------------------------------


def _rbtree(vmas: list[list[_Vma]]) -> RbNodes:
    """A balanced tree for each address space, with ``vm_prev`` and ``rb_subtree_gap`` of its VMAs.

    All nodes are black but those of the deepest level, if that is not full.
    """
    every = [vma for of_one in vmas for vma in of_one]
    nodes = RbNodes.of(
        len(every),
        address=[vma.address + 32 for vma in every],
        parent=[-1] * len(every),
        left=[-1] * len(every),
        right=[-1] * len(every),
    )
    first = 0
    for of_one in vmas:
        for before, vma in zip([None, *of_one[:-1]], of_one, strict=True):
            vma.prev = before.address if before else 0
        full = (len(of_one) + 1) & len(of_one) == 0
        _subtree(nodes, of_one, first, (0, len(of_one)), parent=-1, deepest=-1 if full else len(of_one).bit_length())
        first += len(of_one)
    return nodes


def _subtree(
    nodes: RbNodes, vmas: list[_Vma], first: int, part: tuple[int, int], *, parent: int, deepest: int, depth: int = 1
) -> tuple[int, int]:
    """Make a tree of ``vmas[part[0]:part[1]]``: (row of its root or -1, largest gap below it)."""
    low, high = part
    if low >= high:
        return -1, 0
    middle = (low + high) // 2
    row, vma = first + middle, vmas[middle]
    nodes.parent[row], nodes.depth[row] = parent, depth
    black = depth != deepest
    nodes.parent_word[row] = (int(nodes.address[parent]) if parent >= 0 else 0) | black
    after = {"parent": row, "deepest": deepest, "depth": depth + 1}
    nodes.left[row], left = _subtree(nodes, vmas, first, (low, middle), **after)
    nodes.right[row], right = _subtree(nodes, vmas, first, (middle + 1, high), **after)
    nodes.has_left[row], nodes.has_right[row] = nodes.left[row] >= 0, nodes.right[row] >= 0
    # vm_start_gap: a stack keeps stack_guard_gap free below it, or all there is.
    start = max(vma.start - STACK_GUARD_GAP, 0) if vma.flags & flags.VM_GROWSDOWN else vma.start
    floor = vmas[middle - 1].end if middle else 0
    vma.gap = max(max(start - floor, 0), left, right)
    return row, vma.gap
