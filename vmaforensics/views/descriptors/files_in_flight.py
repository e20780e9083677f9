"""Files in flight over unix sockets.

A file sent over a unix socket (SCM_RIGHTS) waits in the receiver's queue, in ``UNIXCB(skb).fp``, and the sender may
close its own descriptor (unix_attach_fds, net/core/scm.c). From a socket the walk goes to its peer, to what waits in
its queue, and to the sockets that queue names (connections not yet accepted).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vmaforensics.columns.lookup import distinct, first_rows
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, I64, U64, U64Wide
from vmaforensics.views.descriptors.keepers import Keeper, KeptFiles, Origins, Walk
from vmaforensics.views.problems import Problem

_AF_UNIX = 1
_MOST_ROUNDS = 64  # sockets that lead to sockets …
_MOST_BUFFERS = 1 << 16  # socket buffers looked at; sk_rcvbuf lets a queue hold some hundreds
_LISTS = 4096  # scm_fp_lists read at once: 8 MiB


@table(struct="sk_buff")
class _Buffers(Table):
    """A socket buffer in a receive queue."""

    next: U64 = member("next")
    sock: U64 = member("sk")  # the socket that waits to be accepted


@table(struct="scm_fp_list")
class _FileLists(Table):
    """The files that one message passes (include/net/scm.h)."""

    count: I32 = member("count")
    files: U64Wide = member("fp")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sockets:
    """Sockets and where they were reached from; of one length."""

    sock: U64  # struct sock
    origins: Origins

    def take(self, rows: I64) -> _Sockets:
        return _Sockets(sock=self.sock[rows], origins=self.origins.take(rows))


class UnixSockets:
    """Follows files that are unix sockets; what was met once is not followed again."""

    SYMBOL: ClassVar[str] = "socket_file_ops"
    WHAT: ClassVar[str] = "files in flight over unix sockets"
    MEMBERS: ClassVar[tuple[tuple[str, str], ...]] = (
        ("socket", "sk"),
        ("unix_sock", "peer"),
        ("sk_buff", "cb"),
        ("unix_skb_parms", "fp"),
        ("scm_fp_list", "fp"),
    )

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._kernel = walk.kernel
        self._seen = np.zeros(0, np.uint64)  # socks
        self._buffers = 0  # looked at
        self._found: list[KeptFiles] = []

    def follow(self, private: U64, origins: Origins) -> list[KeptFiles]:
        """The files in the queues of the sockets ``private`` (``struct socket``) and of those they lead to."""
        self._found = []
        socks, ok = self._kernel.gather_member("socket", "sk", private)
        self._walk.lost(Problem.UNREADABLE, private[~ok])
        sockets = _Sockets(sock=socks, origins=origins).take(np.flatnonzero(ok))
        for _ in range(_MOST_ROUNDS):
            sockets = self._unix(sockets)
            if not len(sockets.sock):
                break
            sockets = self._reached(sockets)
        else:
            self._walk.lost(Problem.CUT_SHORT, sockets.sock)
        return self._found

    def _unix(self, sockets: _Sockets) -> _Sockets:
        """Those of ``sockets`` that are unix sockets and were not met before, each once."""
        usable = np.flatnonzero(self._kernel.arch.kernel_pointer(sockets.sock) & ~np.isin(sockets.sock, self._seen))
        sockets = sockets.take(usable[first_rows(sockets.sock[usable])])
        self._seen = distinct(self._seen, sockets.sock)
        family, ok = self._kernel.gather_member("sock", "__sk_common.skc_family", sockets.sock)
        self._walk.lost(Problem.UNREADABLE, sockets.sock[~ok])
        return sockets.take(np.flatnonzero(ok & (family == _AF_UNIX)))

    def _reached(self, sockets: _Sockets) -> _Sockets:
        """The peers of ``sockets``, and the sockets that buffers in their queues name."""
        peers, ok = self._kernel.gather_member("unix_sock", "peer", sockets.sock)
        self._walk.lost(Problem.UNREADABLE, sockets.sock[~ok])
        waiting = self._queues(sockets)
        return _Sockets(
            sock=np.concatenate([peers, waiting.sock]),
            origins=Origins.concatenate([sockets.origins, waiting.origins]),
        )

    def _queues(self, sockets: _Sockets) -> _Sockets:
        """Walk the receive queues of all ``sockets``, a buffer of each per step; returns the sockets buffers name."""
        kernel, walk = self._kernel, self._walk
        head = sockets.sock + np.uint64(kernel.offset("sock", "sk_receive_queue"))
        passes = np.uint64(kernel.offset("sk_buff", "cb") + kernel.offset("unix_skb_parms", "fp"))
        first, ok = kernel.gather_member("sock", "sk_receive_queue.next", sockets.sock)
        walk.lost(Problem.UNREADABLE, head[~ok])
        which = np.flatnonzero(ok)
        here = first[which]
        seen: set[int] = set()
        named, origins = [np.zeros(0, np.uint64)], [sockets.origins.take(slice(0))]
        while len(here):
            live = here != head[which]
            which, here = which[live], here[live]
            bad = ~kernel.arch.kernel_pointer(here)
            walk.lost(Problem.NON_CANONICAL, head[which[bad]], here[bad])
            cycle = ~bad & np.array([buffer in seen for buffer in here.tolist()], np.bool_)
            walk.lost(Problem.CYCLE, head[which[cycle]], here[cycle])
            which, here = which[~bad & ~cycle], here[~bad & ~cycle]
            self._buffers += len(here)
            if self._buffers > _MOST_BUFFERS:
                walk.lost(Problem.CUT_SHORT, head[which])
                break
            seen.update(here.tolist())
            buffers, ok = kernel.gather(_Buffers, here)
            lists, held = kernel.words(here + passes, 1)
            walk.lost(Problem.UNREADABLE, here[~(ok & held)])
            read = np.flatnonzero(ok & held)
            which, buffers = which[read], buffers.take(read)
            self._pass(lists[read, 0], sockets.take(which))
            named.append(buffers.sock)
            origins.append(sockets.origins.take(which))
            here = buffers.next
        return _Sockets(sock=np.concatenate(named), origins=Origins.concatenate(origins))

    def _pass(self, lists: U64, receivers: _Sockets) -> None:
        """Take the files of each ``scm_fp_list`` that is not NULL; ``receivers`` has a row for each list."""
        kernel = self._kernel
        files_at = np.uint64(kernel.offset("scm_fp_list", "fp"))
        there = np.flatnonzero(self._kernel.arch.kernel_pointer(lists))
        for low in range(0, len(there), _LISTS):
            part = there[low : low + _LISTS]
            passed, ok = kernel.gather(_FileLists, lists[part])
            self._walk.lost(Problem.UNREADABLE, lists[part[~ok]])
            places = np.arange(passed.files.shape[1])[None, :]
            row, number = np.nonzero((places < passed.count[:, None]) & ok[:, None])
            slot = lists[part[row]] + files_at + np.uint64(8) * number.astype(np.uint64)
            receiver = receivers.take(part[row])
            self._found.append(
                self._walk.kept(Keeper.QUEUE, receiver.sock, slot, passed.files[row, number], receiver.origins)
            )
