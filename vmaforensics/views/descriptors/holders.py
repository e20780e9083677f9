"""What holds page frames without mapping them, and the rows that walks over it make."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.ragged import expand
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I32, U8, U64
from vmaforensics.views.descriptors.keepers import Origins, Walk
from vmaforensics.views.problems import Problem, ProblemLog

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.page_types import PageReader

_MOST = 1 << 20  # frames, buffers and pieces


class Holder(IntEnum):
    """What holds a frame."""

    PIPE = 0  # data that was written
    SPLICED = 1  # a page of a file in a pipe
    VMSPLICED = 2  # a user page in a pipe
    SPARE = 3  # of a pipe: its data was read, it waits to be used again
    IO_URING = 4  # a registered buffer
    AF_XDP = 5  # the umem of a packet socket
    SOCKET = 6  # a message that waits in a socket
    AF_PACKET = 7  # the ring of a packet socket
    BPF_MAP = 8

    @property
    def label(self) -> str:
        """The holder in words."""
        return (
            "a pipe",
            "a pipe (spliced from a file)",
            "a pipe (vmsplice)",
            "a pipe (spare page)",
            "a buffer registered with io_uring",
            "the umem of an AF_XDP socket",
            "a message in the queue of a socket",
            "the ring of a packet socket",
            "a BPF map",
        )[self]


@table()
class HeldFrames(Table):
    """A frame that an open file or a BPF map holds, by frame."""

    pfn: U64
    holder: U8  # Holder
    by: U64  # pipe_inode_info, io_ring_ctx, xdp_umem, sock or bpf_map
    slot: U64  # address of the pointer to the struct page, or to the memory
    pid: I32  # of the process whose descriptor leads there; 0: of none
    fd: I32


class HeldWalk(Walk):
    """A walk over what holds frames."""

    def __init__(self, kernel: Kernel, reader: PageReader, log: ProblemLog) -> None:
        super().__init__(kernel, log)
        self.reader = reader

    def bounded(self, counts: I64, where: U64) -> I64:
        """``counts``, with 0 for those that are more than is looked at, all before them included."""
        cut = np.cumsum(counts.astype(np.float64)) > _MOST
        self.lost(Problem.CUT_SHORT, where[cut], counts[cut].astype(np.uint64))
        return np.where(cut, 0, counts)

    def held(self, holders: U8, by: U64, slot: U64, pages: U64, origins: Origins) -> HeldFrames:
        """A row for each of ``pages`` that is a struct page; arrays of one length."""
        pfns, possible = self.reader.frames_of(pages)
        possible &= self.kernel.arch.kernel_pointer(pages) & self.kernel.space.translate(pages)[2]
        self.lost(Problem.NON_CANONICAL, slot[~possible], pages[~possible])
        return HeldFrames(
            pfn=pfns[possible],
            holder=holders[possible],
            by=by[possible],
            slot=slot[possible],
            pid=origins.pid[possible],
            fd=origins.fd[possible],
        )

    def pieces(self, pages: U64, offsets: U64, lengths: U64, where: U64) -> tuple[I64, U64]:
        """(row, struct page) of every frame of pieces of memory, each ``lengths`` bytes from ``offsets`` bytes behind
        the first byte of ``pages``: a piece may be as large as a folio. ``where`` are the addresses of their words."""
        shift = np.uint64(self.kernel.arch.page_shift)
        first = offsets >> shift
        reach = (offsets + np.maximum(lengths, np.uint64(1)) - np.uint64(1)) >> shift
        row, place = expand(self.bounded((reach - first + np.uint64(1)).astype(np.int64), where))
        with np.errstate(over="ignore"):
            pages = pages[row] + np.uint64(self.reader.size) * (first[row] + place.astype(np.uint64))
        return row, pages

    def of_memory(self, holder: Holder, by: U64, slot: U64, address: U64, sizes: U64, origins: Origins) -> HeldFrames:
        """A row for each frame of kernel memory, ``sizes`` bytes from ``address`` on, that is mapped."""
        shift = np.uint64(self.kernel.arch.page_shift)
        last = address + np.maximum(sizes, np.uint64(1)) - np.uint64(1)
        row, place = expand(self.bounded(((last >> shift) - (address >> shift)).astype(np.int64) + 1, slot))
        pas, _, mapped = self.kernel.space.translate(((address[row] >> shift) + place.astype(np.uint64)) << shift)
        row, pas = row[mapped], pas[mapped]
        return HeldFrames(
            pfn=self.kernel.arch.pages(pas),
            holder=np.full(len(row), holder, np.uint8),
            by=by[row],
            slot=slot[row],
            pid=origins.pid[row],
            fd=origins.fd[row],
        )
