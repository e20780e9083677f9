"""Files registered with io_uring: they stay open in the table of the ring (io_uring/rsrc.c)."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import distinct, first_rows
from vmaforensics.columns.ragged import expand
from vmaforensics.columns.types import I64, U64
from vmaforensics.views.descriptors.keepers import Keeper, KeptFiles, Origins, Walk
from vmaforensics.views.problems import Problem

_POINTER = ~np.uint64(7)  # the low bits of a registered file are flags (FFS_MASK, io_uring/filetable.h)
_MOST_FILES = 1 << 20


class _Pointers(NamedTuple):
    """Words that lead to files; arrays of one length."""

    ring: I64  # row of the ring whose table has it
    slot: U64  # address of the word
    word: U64


class IoUrings:
    """Follows files that are rings of io_uring (``io_ring_ctx``); a ring that was met once is not read again."""

    SYMBOL: ClassVar[str] = "io_uring_fops"
    WHAT: ClassVar[str] = "files registered with io_uring"
    MEMBERS: ClassVar[tuple[tuple[str, str], ...]] = (("io_ring_ctx", "file_table"),)

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._kernel = walk.kernel
        self._seen = np.zeros(0, np.uint64)

    def follow(self, private: U64, origins: Origins) -> list[KeptFiles]:
        """The registered files of the rings ``private`` (``io_ring_ctx``)."""
        fresh = np.flatnonzero(~np.isin(private, self._seen))
        fresh = fresh[first_rows(private[fresh])]
        rings, origins = private[fresh], origins.take(fresh)
        self._seen = distinct(self._seen, rings)
        # Newer kernels have a node (io_rsrc_node) for each file, older ones a table of io_fixed_file.
        if self._kernel.has("io_ring_ctx", "file_table.data.nodes"):
            found = self._files_of_nodes(self._table(rings, "file_table.data.nr", "file_table.data.nodes"))
        elif self._kernel.has("io_ring_ctx", "nr_user_files") and self._kernel.has("io_ring_ctx", "file_table.files"):
            found = self._table(rings, "nr_user_files", "file_table.files")
        else:
            self._kernel.identity.problems.append(
                "files registered with io_uring were not looked for: its table is unknown"
            )
            return []
        ring = found.ring
        return [self._walk.kept(Keeper.IO_URING, rings[ring], found.slot, found.word & _POINTER, origins.take(ring))]

    def _table(self, rings: U64, count_path: str, table_path: str) -> _Pointers:
        """The words of the table of each ring: ``count_path`` and ``table_path`` are members of ``io_ring_ctx``."""
        kernel, walk = self._kernel, self._walk
        counts, ok = kernel.gather_member("io_ring_ctx", count_path, rings)
        tables, held = kernel.gather_member("io_ring_ctx", table_path, rings)
        walk.lost(Problem.UNREADABLE, rings[~(ok & held)])
        count = np.where(
            ok & held & kernel.arch.kernel_pointer(tables), counts & np.uint64(0xFFFFFFFF), np.uint64(0)
        ).astype(np.int64)
        room = np.maximum(_MOST_FILES - (np.cumsum(count) - count), 0)
        cut = count > room
        walk.lost(Problem.CUT_SHORT, rings[cut], count[cut].astype(np.uint64))
        ring, place = expand(np.where(cut, 0, count))
        with np.errstate(over="ignore"):
            slot = tables[ring] + np.uint64(8) * place.astype(np.uint64)
        words, read = kernel.words(slot, 1)
        lost = np.flatnonzero(~read)
        walk.lost(Problem.UNREADABLE, slot[lost[first_rows(ring[lost])]])  # the first of each table
        return _Pointers(ring=ring[read], slot=slot[read], word=words[read, 0])

    def _files_of_nodes(self, nodes: _Pointers) -> _Pointers:
        """``file_ptr`` of the nodes that the words lead to; a slot without a file is NULL."""
        there = self._kernel.arch.kernel_pointer(nodes.word)
        ring, node = nodes.ring[there], nodes.word[there]
        files, ok = self._kernel.gather_member("io_rsrc_node", "file_ptr", node)
        self._walk.lost(Problem.UNREADABLE, node[~ok])
        at = np.uint64(self._kernel.offset("io_rsrc_node", "file_ptr"))
        return _Pointers(ring=ring[ok], slot=node[ok] + at, word=files[ok])
