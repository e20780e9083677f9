"""Slots of swap by the tables of clusters (mm/swap_table.h): what counts them in kernels without ``swap_map``.

``swap_info_struct.cluster_info`` has a ``swap_cluster_info`` for each ``struct swap_table``; its ``table`` leads to a
word for each slot: 0 where it is free, else how many hold it in the four upper bits (or, where these are all set, in
``extend_table``), and below either what is remembered of a page that was swapped out (bit 0), or the frame that is
its copy in the swap cache (bits 0 and 1 are 2). Page-table entries and files count alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.columns.ragged import expand
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I64, U32, U64, Bools

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_MOST_FILES: Final = 32  # MAX_SWAPFILES_SHIFT
_MOST_SLOTS: Final = 1 << 28  # 1 TiB
_COUNT_SHIFT: Final = np.uint64(60)  # SWP_TB_COUNT_SHIFT
_COUNT_MAX: Final = 15
_FRAME: Final = np.uint64((1 << 59) - 1)  # without SWP_TB_FLAGS_MASK
_MARKS: Final = np.uint64(7)
_BAD: Final = np.uint64((1 << 64) - 8)  # SWP_TB_BAD


@table(struct="swap_info_struct")
class _Files(Table):
    max: U32 = member("max")
    clusters: U64 = member("cluster_info")


@table(struct="swap_cluster_info")
class _Clusters(Table):
    table: U64 = member("table")
    extended: U64 = member("extend_table?")


class TableSlots(NamedTuple):
    """Slots that are in use; arrays of one length."""

    file: I64  # number of the swap file
    offset: U64
    holders: I64  # how many; -1: not in the image
    frame: U64  # of its page in the swap cache
    cached: Bools


def has_tables(kernel: Kernel) -> bool:
    """Does this kernel count slots in such tables?"""
    return kernel.has("swap_cluster_info", "table") and kernel.types.struct("swap_table") is not None


class _Read(NamedTuple):
    """Every ``swap_cluster_info`` of some swap files; arrays of one length but for ``ok``."""

    file: I64
    number: I64  # of the cluster in its file
    rows: _Clusters
    known: Bools
    ok: Bools  # of each file


def swap_files(kernel: Kernel) -> tuple[U64, Bools] | None:
    """The ``swap_info_struct`` of each swap file, 0 where it is not in the image; None where this kernel has none."""
    files = min(kernel.variable("nr_swapfiles", 4) or 0, _MOST_FILES)
    at = kernel.symbols.get("swap_info")
    if at is None or not files:
        return None
    pointers, ok = kernel.words(np.uint64(at) + np.arange(files, dtype=np.uint64) * np.uint64(8), 1)
    return np.where(ok, pointers[:, 0], np.uint64(0)), ok


def table_frames(kernel: Kernel) -> U64:
    """The frames that tables of clusters lie in; those of pages of their own bear no mark (swap_table_alloc)."""
    found = swap_files(kernel)
    if found is None or not has_tables(kernel):
        return np.zeros(0, np.uint64)
    tables = _clusters(kernel, found[0]).rows.table
    where = kernel.space.translate(tables[tables != 0])
    return kernel.arch.pages(where.pa[where.mapped])


def _clusters(kernel: Kernel, files: U64) -> _Read:
    rows, ok = kernel.gather(_Files, files)
    each = kernel.sizeof("swap_table") // 8
    slots = np.where(ok, np.minimum(rows.max, _MOST_SLOTS), 0).astype(np.int64)
    file, number = expand(-(-slots // each))
    with np.errstate(over="ignore"):
        at = rows.clusters[file] + number.astype(np.uint64) * np.uint64(kernel.sizeof("swap_cluster_info"))
    clusters, known = kernel.gather(_Clusters, at)
    return _Read(file, number, clusters, known, ok)


def read_tables(kernel: Kernel, files: U64) -> tuple[TableSlots, bool]:
    """The slots of the ``swap_info_struct`` at each of ``files``, and was every table read?"""
    file, number, clusters, known, ok = _clusters(kernel, files)
    each = kernel.sizeof("swap_table") // 8
    used = np.flatnonzero(known & (clusters.table != 0))
    words, read = kernel.words(clusters.table[used], each)
    words[~read] = 0
    row, place = np.nonzero(words)
    word = words[row, place]
    plain = word != _BAD
    row, place, word = used[row[plain]], place[plain], word[plain]
    count = (word >> _COUNT_SHIFT).astype(np.int64)
    count[count == _COUNT_MAX] = _extended(kernel, clusters.extended[row], place, count)
    cached = (word & _MARKS & np.uint64(3)) == np.uint64(2)
    found = TableSlots(
        file=file[row],
        offset=(number[row] * each + place).astype(np.uint64),
        holders=count,
        frame=np.where(cached, (word & _FRAME) >> np.uint64(2), np.uint64(0)),
        cached=cached,
    )
    return found, bool(ok.all()) and bool(known.all()) and bool(read.all())


def _extended(kernel: Kernel, tables: U64, place: I64, count: I64) -> I64:
    """The counts that do not fit into a word; -1 where they are not in the image. Without a table the word is all."""
    mine = np.flatnonzero(count == _COUNT_MAX)
    with np.errstate(over="ignore"):
        data, ok = kernel.space.gather(tables[mine] + np.uint64(4) * place[mine].astype(np.uint64), 4)
    found: I64 = data.view("<u4")[:, 0].astype(np.int64)
    return np.where(tables[mine] == 0, _COUNT_MAX, np.where(ok, found, -1))
