"""What keeps a file open beside a descriptor, and the rows that walks over it make."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I32, U8, U64
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel


class Keeper(IntEnum):
    """What keeps a file open."""

    QUEUE = 0  # the receive queue of a unix socket
    IO_URING = 1  # io_uring's table of registered files

    @property
    def label(self) -> str:
        """The keeper in words."""
        return ("the queue of a unix socket", "io_uring")[self]


@table()
class KeptFiles(Table):
    """An open file that no descriptor table needs to have; by address of the keeper, then of the pointer."""

    keeper: U8  # Keeper
    by: U64  # struct sock or io_ring_ctx
    slot: U64  # address of the pointer to the file
    file: U64
    inode: U64  # 0 where the file is not in the dump
    pid: I32  # of the process whose descriptor leads here
    fd: I32


@table()
class Origins(Table):
    """Which descriptor a file was reached from."""

    file: U64
    pid: I32
    fd: I32


class Walk:
    """Where walks over queues and tables note what they could not follow."""

    def __init__(self, kernel: Kernel, log: ProblemLog) -> None:
        self.kernel = kernel
        self.whole = True  # nothing was lost so far
        self._log = log

    def lost(self, problem: Problem, where: U64, value: U64 | int = 0) -> None:
        """Note a problem for each address of ``where``; without any, nothing."""
        self._log.add(View.HANDLES, problem, 0, where, value)
        self.whole &= not len(where)

    def kept(self, keeper: Keeper, by: U64, slot: U64, file: U64, origins: Origins) -> KeptFiles:
        """A row for each pointer ``file`` that is not NULL; arrays of one length. ``inode`` is left 0."""
        wild = (file != 0) & ~self.kernel.arch.kernel_pointer(file)
        self.lost(Problem.NON_CANONICAL, slot[wild], file[wild])
        keep = (file != 0) & ~wild
        count = int(keep.sum())
        return KeptFiles(
            keeper=np.full(count, keeper, np.uint8),
            by=by[keep],
            slot=slot[keep],
            file=file[keep],
            inode=np.zeros(count, np.uint64),
            pid=origins.pid[keep],
            fd=origins.fd[keep],
        )
