"""The open files of every process, by its table of file descriptors (fs/file.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct, first_rows
from vmaforensics.columns.ragged import expand
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, I64, U32, U64
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.slab.homes import FILE, Homes
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.tasks import Tasks


@table()
class Descriptors(Table):
    """An open file descriptor; by ``files_struct``, then number. Threads, and processes made with CLONE_FILES, share
    one ``files_struct``: it counts once, as that of the first task that has it."""

    pid: I32  # the tgid of that task
    fd: I32
    slot: U64  # address of the pointer to the file
    file: U64
    inode: U64  # 0 where the file is not in the dump


@table(struct="fdtable")
class _FdTables(Table):
    """The descriptor table of a ``files_struct`` (include/linux/fdtable.h)."""

    max_fds: U32 = member("max_fds")
    fd: U64 = member("fd")  # address of the array of pointers to files
    open_fds: U64 = member("open_fds")  # address of the bitmap


@dataclass(frozen=True, slots=True, kw_only=True)
class _Holders:
    """Every ``files_struct``, and the first task that has it; arrays of one length."""

    mm: U64
    tgid: I32
    tables: _FdTables
    table_at: U64  # address of the fdtable
    whole: bool

    @classmethod
    def read(cls, kernel: Kernel, tasks: Tasks, log: ProblemLog) -> _Holders:
        """The holders among ``tasks``; a table that cannot be read has no descriptors."""
        files, ok = kernel.gather_member("task_struct", "files", tasks.task)
        usable = np.flatnonzero(ok & tasks.ok & kernel.arch.kernel_pointer(files))  # NULL in zombies
        owner = usable[first_rows(files[usable])]
        files, mm = files[owner], tasks.mm[owner]
        table_at, found = kernel.gather_member("files_struct", "fdt", files)
        tables, held = kernel.gather(_FdTables, table_at)
        lost = ~(found & held)
        log.add(View.HANDLES, Problem.UNREADABLE, mm[lost], files[lost])
        return cls(
            mm=mm,
            tgid=tasks.tgid[owner],
            tables=tables,
            table_at=table_at,
            whole=not lost.any(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Marked:
    """The descriptors that bitmaps mark; arrays of one length."""

    holder: I64  # row of _Holders
    number: I64
    whole: bool


_BITS = 64  # BITS_PER_LONG
_MOST_FDS = 1 << 20  # of one process: sysctl_nr_open's default (fs/file.c)
_MOST_WORDS = 1 << 22  # of all bitmaps: 64 descriptors each
_MOST_USED = 1 << 16  # of these words, with a descriptor in them


def read_descriptors(kernel: Kernel, tasks: Tasks, log: ProblemLog) -> tuple[Descriptors, bool]:
    """``(descriptors, whole)``: those that ``fdtable.open_fds`` marks.

    A descriptor that is marked and still NULL is being opened (alloc_fd, fs/file.c) and is left out. ``whole`` is
    False if anything could not be read or was more than is looked at; problems carry the mm of the holder.
    """
    holders = _Holders.read(kernel, tasks, log)
    marked = _marked(kernel, holders, log)
    with np.errstate(over="ignore"):
        slots = holders.tables.fd[marked.holder] + np.uint64(8) * marked.number.astype(np.uint64)
    pointers, there = kernel.words(slots, 1)
    file = pointers[:, 0]
    wild = there & (file != 0) & ~kernel.arch.kernel_pointer(file)
    stale = there & (file != 0) & ~wild & kernel.shared(Homes).strangers(FILE, file)
    for problem, bad in ((Problem.UNREADABLE, ~there), (Problem.NON_CANONICAL, wild), (Problem.STALE, stale)):
        at = np.flatnonzero(bad)
        at = at[first_rows(marked.holder[at])]  # the first of each table: there may be millions
        log.add(View.HANDLES, problem, holders.mm[marked.holder[at]], slots[at], file[at])
    keep = np.flatnonzero(there & (file != 0) & ~wild & ~stale)
    inode, held = inodes_of(kernel, file[keep], log)
    rows = Descriptors(
        pid=holders.tgid[marked.holder[keep]],
        fd=marked.number[keep].astype(np.int32),
        slot=slots[keep],
        file=file[keep],
        inode=inode,
    )
    return rows, holders.whole and marked.whole and bool(there.all()) and not stale.any() and held


def _marked(kernel: Kernel, holders: _Holders, log: ProblemLog) -> _Marked:
    """The bits that are set in ``open_fds`` of each table, by table and number."""
    tables, whole = holders.tables, True
    count = tables.max_fds.astype(np.int64)
    words = np.minimum(count, _MOST_FDS) // _BITS  # max_fds is a multiple of BITS_PER_LONG (alloc_fdtable)
    words[np.cumsum(words) > _MOST_WORDS] = 0
    cut = words * _BITS < count
    log.add(View.HANDLES, Problem.CUT_SHORT, holders.mm[cut], holders.table_at[cut], count[cut].astype(np.uint64))

    holder, word = expand(words)
    with np.errstate(over="ignore"):
        places = tables.open_fds[holder] + np.uint64(8) * word.astype(np.uint64)
    marks, read = kernel.words(places, 1)
    lost = distinct(holder[~read])
    log.add(View.HANDLES, Problem.UNREADABLE, holders.mm[lost], tables.open_fds[lost])
    used = np.flatnonzero(marks[:, 0])
    if len(used) > _MOST_USED:
        left = distinct(holder[used[_MOST_USED:]])
        log.add(View.HANDLES, Problem.CUT_SHORT, holders.mm[left], holders.table_at[left])
        used, whole = used[:_MOST_USED], False
    bits = np.unpackbits(marks[used].astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    row, bit = np.nonzero(bits)
    return _Marked(
        holder=holder[used[row]],
        number=word[used[row]] * _BITS + bit,
        whole=whole and not cut.any() and bool(read.all()),
    )


def inodes_of(kernel: Kernel, files: U64, log: ProblemLog) -> tuple[U64, bool]:
    """``(inodes, whole)``: ``f_inode`` of each of ``files``, 0 where it is not in the dump; were all?"""
    distinct, inverse = np.unique(files, return_inverse=True)
    inodes, ok = kernel.gather_member("file", "f_inode", distinct)
    log.add(View.HANDLES, Problem.UNREADABLE, 0, distinct[~ok])
    return inodes[inverse], bool(ok.all())
