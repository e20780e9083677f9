"""Open files that no descriptor table has: those in flight over unix sockets, and those io_uring has registered.

A file sent over a unix socket (SCM_RIGHTS) waits in the receiver's queue, in ``UNIXCB(skb).fp``, and the sender may
close its own descriptor (unix_attach_fds, net/core/scm.c). A file registered with io_uring stays in the ring's table
(io_uring/rsrc.c). Sockets and rings may themselves be in flight. What is followed begins at descriptors: from a socket
to its peer, to what waits in its queue, and to the sockets that queue names (connections not yet accepted).
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel


class Keeper(IntEnum):
    """What keeps a file open."""

    QUEUE = 0  # the receive queue of a unix socket
    RING = 1  # io_uring's table of registered files

    @property
    def label(self) -> str:
        """The keeper in words."""
        return ("the queue of a unix socket", "io_uring")[self]


KEPT = np.dtype(
    [
        ("keeper", np.uint8),
        ("by", np.uint64),  # struct sock or io_ring_ctx
        ("slot", np.uint64),  # address of the pointer to the file
        ("file", np.uint64),
        ("inode", np.uint64),  # 0 where the file is not in the dump
        ("mapping", np.uint64),  # f_mapping
        ("pid", np.int32),  # of the process whose descriptor leads here
        ("fd", np.int32),
    ]
)

_AF_UNIX = 1
_POINTER = ~np.uint64(7)  # the low bits of a registered file are flags (FFS_MASK, io_uring/filetable.h)
_MOST_ROUNDS = 64  # sockets in flight in queues of sockets in flight …
_MOST_BUFFERS = 1 << 16  # socket buffers looked at; sk_rcvbuf lets a queue hold some hundreds
_MOST_FILES = 1 << 20
_LISTS = 4096  # scm_fp_lists read at once: 8 MiB


class _Found:
    """What a walk has met so far."""

    def __init__(self, kernel: Kernel, log: ProblemLog) -> None:
        self.kernel = kernel
        self.log = log
        self.whole = True
        self.rows: list[NDArray[np.void]] = []
        self.socks = np.zeros(0, np.uint64)
        self.rings = np.zeros(0, np.uint64)
        self.files = np.zeros(0, np.uint64)
        self.buffers = 0

    def lost(self, problem: Problem, where: NDArray[np.uint64], value: NDArray[np.uint64] | int = 0) -> None:
        self.log.add(View.HANDLES, problem, 0, where, value)
        self.whole &= not len(where)


def read_kept(kernel: Kernel, descriptors: NDArray[np.void], log: ProblemLog) -> tuple[NDArray[np.void], bool]:
    """``(rows, whole)``: dtype ``KEPT``, for every file that sockets and rings open in ``descriptors`` keep.

    Kernels without the symbols or structures get a line in ``identity.problems`` and no rows.
    """
    found = _Found(kernel, log)
    known = _operations(kernel)
    _, first = np.unique(descriptors["file"], return_index=True)
    fresh = descriptors[first][["file", "pid", "fd"]]
    for _ in range(_MOST_ROUNDS):
        fresh = _new(fresh, "file", found.files)
        if not len(fresh):
            break
        found.files = np.union1d(found.files, fresh["file"])
        got, ok = kernel.gather("file", fresh["file"], ["f_op", "private_data"])
        before = len(found.rows)
        for operations, follow in known:
            # A file that is not in the dump has been told by whoever led here.
            mine = ok & (got["f_op"] == np.uint64(operations)) & kernel_pointer(got["private_data"])
            follow(found, got["private_data"][mine], fresh[mine])
        fresh = np.concatenate([fresh[:0], *(rows[["file", "pid", "fd"]] for rows in found.rows[before:])])
    else:
        found.lost(Problem.CUT_SHORT, fresh["file"])
    rows = np.concatenate([np.zeros(0, KEPT), *found.rows])
    rows = rows[np.lexsort((rows["slot"], rows["by"]))]
    files, inverse = np.unique(rows["file"], return_inverse=True)
    got, ok = kernel.gather("file", files, ["f_inode", "f_mapping"])
    found.lost(Problem.UNREADABLE, files[~ok])
    rows["inode"], rows["mapping"] = got["f_inode"][inverse], got["f_mapping"][inverse]
    return rows, found.whole


Follow: TypeAlias = "Callable[[_Found, NDArray[np.uint64], NDArray[np.void]], None]"


def _new(rows: NDArray[np.void], name: str, seen: NDArray[np.uint64]) -> NDArray[np.void]:
    """Rows whose ``name`` is not in ``seen``, each value once."""
    _, first = np.unique(rows[name], return_index=True)
    rows = rows[np.sort(first)]
    answer: NDArray[np.void] = rows[~np.isin(rows[name], seen)]
    return answer


def _operations(kernel: Kernel) -> list[tuple[int, Follow]]:
    """(address of the file operations, what follows such a file), for those that this kernel has."""
    wanted: tuple[tuple[str, Follow, str, tuple[tuple[str, str], ...]], ...] = (
        (
            "socket_file_ops",
            _sockets,
            "files in flight over unix sockets",
            (
                ("socket", "sk"),
                ("unix_sock", "peer"),
                ("sk_buff", "cb"),
                ("unix_skb_parms", "fp"),
                ("scm_fp_list", "fp"),
            ),
        ),
        ("io_uring_fops", _rings, "files registered with io_uring", (("io_ring_ctx", "file_table"),)),
    )
    out: list[tuple[int, Follow]] = []
    for symbol, follow, what, members in wanted:
        at = kernel.symbols.get(symbol)
        lacking = [f"struct {struct}.{member}" for struct, member in members if not kernel.has(struct, member)]
        if at is None or lacking:
            why = f"{', '.join(lacking)} is not in its types" if at is not None else f"the symbol {symbol} is unknown"
            kernel.identity.problems.append(f"{what} were not looked for: {why}")
        else:
            out.append((at, follow))
    return out


# Unix sockets ---------------------------------------------------------------------------------------


def _sockets(found: _Found, sockets: NDArray[np.uint64], whence: NDArray[np.void]) -> None:
    """The unix sockets among ``sockets`` (``struct socket``), and those that they lead to."""
    kernel = found.kernel
    got, ok = kernel.gather("socket", sockets, ["sk"])
    found.lost(Problem.UNREADABLE, sockets[~ok])
    socks, whence = got["sk"][ok], whence[ok]
    for _ in range(_MOST_ROUNDS):
        usable = kernel_pointer(socks)
        _, first = np.unique(socks[usable], return_index=True)
        socks, whence = socks[usable][first], whence[usable][first]
        fresh = ~np.isin(socks, found.socks)
        socks, whence = socks[fresh], whence[fresh]
        if not len(socks):
            return
        found.socks = np.union1d(found.socks, socks)
        got, ok = kernel.gather("sock", socks, ["__sk_common.skc_family"])
        found.lost(Problem.UNREADABLE, socks[~ok])
        unix = ok & (got["__sk_common.skc_family"] == _AF_UNIX)
        socks, whence = socks[unix], whence[unix]
        own, ok = kernel.gather("unix_sock", socks, ["peer"])
        found.lost(Problem.UNREADABLE, socks[~ok])
        named, origin = _queues(found, socks, whence)
        socks, whence = np.concatenate([own["peer"], named]), np.concatenate([whence, origin])
    found.lost(Problem.CUT_SHORT, socks)


def _queues(
    found: _Found, socks: NDArray[np.uint64], whence: NDArray[np.void]
) -> tuple[NDArray[np.uint64], NDArray[np.void]]:
    """Walk all receive queues, a buffer of each per step; ``(socks that buffers name, whence)``."""
    kernel = found.kernel
    head = socks + np.uint64(kernel.offset("sock", "sk_receive_queue"))
    parms = np.uint64(kernel.offset("sk_buff", "cb") + kernel.offset("unix_skb_parms", "fp"))
    got, ok = kernel.gather("sock", socks, ["sk_receive_queue.next"])
    found.lost(Problem.UNREADABLE, head[~ok])
    which, here = np.flatnonzero(ok), got["sk_receive_queue.next"][ok]
    seen: set[int] = set()
    named, origin = [np.zeros(0, np.uint64)], [whence[:0]]
    while len(here):
        live = here != head[which]
        which, here = which[live], here[live]
        bad = ~kernel_pointer(here)
        found.lost(Problem.NON_CANONICAL, head[which[bad]], here[bad])
        cycle = ~bad & np.array([one in seen for one in here.tolist()], np.bool_)
        found.lost(Problem.CYCLE, head[which[cycle]], here[cycle])
        which, here = which[~bad & ~cycle], here[~bad & ~cycle]
        found.buffers += len(here)
        if found.buffers > _MOST_BUFFERS:
            found.lost(Problem.CUT_SHORT, head[which])
            break
        seen.update(here.tolist())
        got, ok = kernel.gather("sk_buff", here, ["next", "sk"])
        lists, held = kernel.words(here + parms, 1)
        found.lost(Problem.UNREADABLE, here[~(ok & held)])
        which, got, lists = which[ok & held], got[ok & held], lists[ok & held, 0]
        _passed(found, lists, socks[which], whence[which])
        named.append(got["sk"])
        origin.append(whence[which])
        here = got["next"]
    return np.concatenate(named), np.concatenate(origin)


def _passed(found: _Found, lists: NDArray[np.uint64], socks: NDArray[np.uint64], whence: NDArray[np.void]) -> None:
    """The files of each ``scm_fp_list`` that is not NULL."""
    there = kernel_pointer(lists)
    at = np.flatnonzero(there)
    for low in range(0, len(at), _LISTS):
        part = at[low : low + _LISTS]
        _listed(found, lists[part], socks[part], whence[part])


def _listed(found: _Found, lists: NDArray[np.uint64], socks: NDArray[np.uint64], whence: NDArray[np.void]) -> None:
    kernel = found.kernel
    got, ok = kernel.gather("scm_fp_list", lists, ["count", "fp"])
    found.lost(Problem.UNREADABLE, lists[~ok])
    column = np.arange(got["fp"].shape[1])[None, :]
    row, number = np.nonzero((column < got["count"][:, None]) & ok[:, None])
    slot = lists[row] + np.uint64(kernel.offset("scm_fp_list", "fp")) + np.uint64(8) * number.astype(np.uint64)
    _add(found, Keeper.QUEUE, socks[row], slot, got["fp"][row, number], whence[row])


# io_uring -------------------------------------------------------------------------------------------


def _rings(found: _Found, rings: NDArray[np.uint64], whence: NDArray[np.void]) -> None:
    """The registered files of each ``io_ring_ctx``."""
    kernel = found.kernel
    fresh = ~np.isin(rings, found.rings)
    rings, first = np.unique(rings[fresh], return_index=True)
    whence = whence[fresh][first]
    found.rings = np.union1d(found.rings, rings)
    nodes = kernel.has("io_ring_ctx", "file_table.data.nodes")
    # Newer kernels have a node (io_rsrc_node) for each file, older ones a table of io_fixed_file.
    pair = ("file_table.data.nr", "file_table.data.nodes") if nodes else ("nr_user_files", "file_table.files")
    if not all(kernel.has("io_ring_ctx", name) for name in pair):
        kernel.identity.problems.append("files registered with io_uring were not looked for: its table is unknown")
        return
    got, ok = kernel.gather("io_ring_ctx", rings, pair)
    found.lost(Problem.UNREADABLE, rings[~ok])
    count = np.where(ok & kernel_pointer(got[pair[1]]), got[pair[0]].astype(np.int64) & 0xFFFFFFFF, 0)
    room = np.maximum(_MOST_FILES - (np.cumsum(count) - count), 0)
    cut = count > room
    found.lost(Problem.CUT_SHORT, rings[cut], count[cut].astype(np.uint64))
    count = np.where(cut, 0, count)
    row = np.repeat(np.arange(len(rings)), count)
    number = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    with np.errstate(over="ignore"):
        slot = got[pair[1]][row] + np.uint64(8) * number.astype(np.uint64)
    words, ok = kernel.words(slot, 1)
    _, one = np.unique(row[~ok], return_index=True)  # the first of each table
    found.lost(Problem.UNREADABLE, slot[~ok][one])
    row, slot, file = row[ok], slot[ok], words[ok, 0]
    if nodes:
        there = kernel_pointer(file)
        row, at = row[there], file[there]
        got, ok = kernel.gather("io_rsrc_node", at, ["file_ptr"])
        found.lost(Problem.UNREADABLE, at[~ok])
        row, slot = row[ok], at[ok] + np.uint64(kernel.offset("io_rsrc_node", "file_ptr"))
        file = got["file_ptr"][ok]
    _add(found, Keeper.RING, rings[row], slot, file & _POINTER, whence[row])


def _add(
    found: _Found,
    keeper: Keeper,
    by: NDArray[np.uint64],
    slot: NDArray[np.uint64],
    file: NDArray[np.uint64],
    whence: NDArray[np.void],
) -> None:
    wild = (file != 0) & ~kernel_pointer(file)
    found.lost(Problem.NON_CANONICAL, slot[wild], file[wild])
    keep = (file != 0) & ~wild
    rows = np.zeros(int(keep.sum()), KEPT)
    rows["keeper"], rows["by"], rows["slot"], rows["file"] = keeper, by[keep], slot[keep], file[keep]
    rows["pid"], rows["fd"] = whence["pid"][keep], whence["fd"][keep]
    found.rows.append(rows)
