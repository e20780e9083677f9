"""Page frames that open files hold without mapping them: of pipes, io_uring, sockets and BPF maps.

Such pages stay when the process that had them unmaps them, and no page table leads to them any more: a pipe takes user
pages by vmsplice and hands them on to sockets, io_uring and AF_XDP pin what is registered with them; rings of packet
sockets and BPF maps are the kernel's own pages that a process wrote to through a mapping.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import first_rows
from vmaforensics.columns.ragged import expand
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U32, U64
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.descriptors.bpf_frames import bpf_frames
from vmaforensics.views.descriptors.holders import HeldFrames, HeldWalk, Holder
from vmaforensics.views.descriptors.keepers import Origins
from vmaforensics.views.descriptors.socket_frames import SocketFrames
from vmaforensics.views.pages.page_types import PageReader
from vmaforensics.views.problems import Problem

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.descriptors.descriptors import Descriptors
    from vmaforensics.views.descriptors.keepers import KeptFiles
    from vmaforensics.views.problems import ProblemLog

_POINTER = np.uint64(8)


@table(struct="file")
class _OpenFiles(Table):
    operations: U64 = member("f_op")
    private: U64 = member("private_data")


@table(struct="pipe_inode_info")
class _Pipes(Table):
    """A pipe (include/linux/pipe_fs_i.h)."""

    head: U32 = member("head")
    tail: U32 = member("tail")
    size: U32 = member("ring_size")
    buffers: U64 = member("bufs")


@table(struct="pipe_buffer")
class _Buffers(Table):
    page: U64 = member("page")
    operations: U64 = member("ops")


@table(struct="bio_vec")
class _Pieces(Table):
    page: U64 = member("bv_page")
    length: U32 = member("bv_len")
    offset: U32 = member("bv_offset")


def read_held_frames(
    kernel: Kernel, descriptors: Descriptors, kept: KeptFiles, log: ProblemLog
) -> tuple[HeldFrames, bool]:
    """``(frames, whole)``: every frame that files open in ``descriptors``, or ``kept`` otherwise, hold without a VMA.

    ``whole`` is False if anything could not be read to its end. What this kernel has no structures for has no rows,
    and a line in ``identity.problems``.
    """
    try:
        reader = PageReader(kernel)
    except KernelNotFoundError as error:
        kernel.identity.problems.append(f"frames that files hold were not looked for: {error}")
        return HeldFrames.zeros(0), False
    walk = _HeldWalk(kernel, reader, log)
    origins = Origins(
        file=np.concatenate([descriptors.file, kept.file]),
        pid=np.concatenate([descriptors.pid, kept.pid]),
        fd=np.concatenate([descriptors.fd, kept.fd]),
    )
    origins = origins.take(np.sort(first_rows(origins.file)))
    files, ok = kernel.gather(_OpenFiles, origins.file)  # one that is not in the dump was noted on the way here
    ok &= kernel.arch.kernel_pointer(files.private)
    found = [HeldFrames.zeros(0)]
    for what, symbols, follow in (
        ("pipes", ("pipefifo_fops", "pipeanon_fops"), walk.pipes),  # the latter since 6.15
        ("buffers registered with io_uring", ("io_uring_fops",), walk.rings),
        ("sockets", ("socket_file_ops",), SocketFrames(walk).follow),
        ("BPF maps", ("bpf_map_fops",), lambda maps, origins: bpf_frames(walk, maps, origins)),
    ):
        operations = [at % (1 << 64) for symbol in symbols if (at := kernel.symbols.get(symbol)) is not None]
        if not operations:
            kernel.identity.problems.append(f"{what}: not looked at, the symbol {symbols[0]} is unknown")
            continue
        rows = np.flatnonzero(ok & np.isin(files.operations, np.array(operations, np.uint64)))
        rows = rows[np.sort(first_rows(files.private[rows]))]  # both ends of a pipe have one pipe_inode_info
        try:
            found += follow(files.private[rows], origins.take(rows))
        except KernelNotFoundError as error:
            kernel.identity.problems.append(f"{what}: not looked at, {error}")
    held = HeldFrames.concatenate(found)
    return held.sort_by(held.pfn), walk.whole


class _HeldWalk(HeldWalk):
    """Walks over files that hold frames."""

    def pipes(self, pipes: U64, origins: Origins) -> list[HeldFrames]:
        """What is in each ``pipe_inode_info``, and the pages it keeps to be used again."""
        kernel = self.kernel
        rows, ok = kernel.gather(_Pipes, pipes)
        self.lost(Problem.UNREADABLE, pipes[~ok])
        width = np.uint32((1 << 8 * kernel.member("pipe_inode_info", "head").size) - 1)
        with np.errstate(over="ignore"):
            filled = (rows.head - rows.tail) & width
        used = np.where(ok & (rows.size != 0), np.minimum(filled, rows.size), 0).astype(np.int64)
        used = self.bounded(used, pipes)
        pipe, place = expand(used)
        with np.errstate(over="ignore"):
            # ring_size is a power of two: pipe_buf() takes the index modulo it.
            index = (rows.tail[pipe] + place.astype(np.uint32)) & (rows.size[pipe] - np.uint32(1))
            at = rows.buffers[pipe] + index.astype(np.uint64) * np.uint64(kernel.sizeof("pipe_buffer"))
        buffers, read = kernel.gather(_Buffers, at)
        self.lost(Problem.UNREADABLE, at[~read])
        holders = np.full(len(at), Holder.SPLICED, np.uint8)
        for holder, symbol in (
            (Holder.PIPE, "anon_pipe_buf_ops"),
            (Holder.VMSPLICED, "user_page_pipe_buf_ops"),
        ):
            for operations in kernel.symbols.find(symbol):
                holders[buffers.operations == np.uint64(operations % (1 << 64))] = holder
        slot = at + np.uint64(kernel.offset("pipe_buffer", "page"))
        found = self.held(holders[read], pipes[pipe[read]], slot[read], buffers.page[read], origins.take(pipe[read]))
        return [found, *self._spare(pipes[ok], origins.take(ok))]

    def _spare(self, pipes: U64, origins: Origins) -> list[HeldFrames]:
        """Pages whose data was read."""
        kernel = self.kernel
        field = kernel.member("pipe_inode_info", "tmp_page|prealloc.pages")
        count = field.count or 1
        places = np.uint64(field.offset) + np.arange(count, dtype=np.uint64) * _POINTER
        slot = (pipes[:, None] + places[None, :]).reshape(-1)
        words, ok = kernel.words(slot, 1)
        at = np.flatnonzero(ok & (words[:, 0] != 0))
        holders = np.full(len(at), Holder.SPARE, np.uint8)
        return [self.held(holders, pipes[at // count], slot[at], words[at, 0], origins.take(at // count))]

    def rings(self, rings: U64, origins: Origins) -> list[HeldFrames]:
        """The buffers registered with each ``io_ring_ctx`` (io_uring/rsrc.c): pointers, or nodes that have them."""
        kernel = self.kernel
        nodes = kernel.has("io_ring_ctx", "buf_table.nodes")
        paths = ("buf_table.nr", "buf_table.nodes") if nodes else ("nr_user_bufs", "user_bufs")
        pieces_at = kernel.member("io_mapped_ubuf", "bvec")
        if pieces_at.pointer:
            raise KernelNotFoundError("struct io_mapped_ubuf does not hold its pieces itself")
        counts, ok = kernel.gather_member("io_ring_ctx", paths[0], rings)
        tables, held = kernel.gather_member("io_ring_ctx", paths[1], rings)
        self.lost(Problem.UNREADABLE, rings[~(ok & held)])
        usable = ok & held & kernel.arch.kernel_pointer(tables)
        ring, place = expand(self.bounded(np.where(usable, counts & np.uint64(0xFFFFFFFF), 0).astype(np.int64), rings))
        slot = tables[ring] + _POINTER * place.astype(np.uint64)
        words, read = kernel.words(slot, 1)
        self.lost(Problem.UNREADABLE, slot[~read])
        there = read & kernel.arch.kernel_pointer(words[:, 0])
        ring, buffers = ring[there], words[there, 0]
        if nodes:
            buffers, read = kernel.gather_member("io_rsrc_node", "buf", buffers)
            ring, buffers = ring[read], buffers[read]
        many, read = kernel.gather_member("io_mapped_ubuf", "nr_bvecs", buffers)
        self.lost(Problem.UNREADABLE, buffers[~read])
        buffer, place = expand(self.bounded(np.where(read, many, 0).astype(np.int64), buffers))
        step = np.uint64(kernel.sizeof("bio_vec"))
        at = buffers[buffer] + np.uint64(pieces_at.offset) + step * place.astype(np.uint64)
        pieces, read = kernel.gather(_Pieces, at)
        self.lost(Problem.UNREADABLE, at[~read])
        ring, at, pieces = ring[buffer[read]], at[read], pieces.take(read)
        piece, page = self.pieces(pieces.page, pieces.offset.astype(np.uint64), pieces.length.astype(np.uint64), at)
        ring = ring[piece]
        holders = np.full(len(ring), Holder.IO_URING, np.uint8)
        return [self.held(holders, rings[ring], at[piece], page, origins.take(ring))]
