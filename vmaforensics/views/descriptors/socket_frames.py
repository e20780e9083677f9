"""Page frames that sockets hold: messages that wait in their queues, rings of AF_PACKET, the umem of AF_XDP.

What is spliced to a socket is not copied: the fragments of its ``sk_buff`` are the pages themselves, until somebody
reads them (``MSG_SPLICE_PAGES``, before 6.5 ``sendpage``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import first_rows
from vmaforensics.columns.ragged import expand
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U8, U32, U64
from vmaforensics.views.descriptors.holders import HeldFrames, Holder
from vmaforensics.views.problems import Problem

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64
    from vmaforensics.views.descriptors.holders import HeldWalk
    from vmaforensics.views.descriptors.keepers import Origins

_AF_UNIX, _AF_PACKET, _AF_XDP = 1, 17, 44
_POINTER = np.uint64(8)
_MOST_BUFFERS = 1 << 16  # socket buffers looked at
_QUEUES = ("sk_receive_queue", "sk_write_queue", "sk_error_queue")
_RINGS = ("rx_ring", "tx_ring")
_NOT_A_PAGE = np.uint64(1)  # NET_IOV: memory of a device (include/net/netmem.h)


@table(struct="xdp_umem")
class _Umems(Table):
    pages: U64 = member("pgs")
    count: U32 = member("npgs")


@table(struct="packet_ring_buffer")
class _Rings(Table):
    """The blocks of a ring (net/packet/internal.h)."""

    blocks: U64 = member("pg_vec")
    count: U32 = member("pg_vec_len")
    pages: U32 = member("pg_vec_pages")  # of each block


@table(struct="sk_buff")
class _Buffers(Table):
    next: U64 = member("next")
    head: U64 = member("head")
    end: U32 = member("end")  # from head on: where skb_shared_info lies


@table(struct="skb_shared_info")
class _Shared(Table):
    count: U8 = member("nr_frags")
    list: U64 = member("frag_list")


class SocketFrames:
    """Follows files that are sockets."""

    def __init__(self, walk: HeldWalk) -> None:
        self._walk, self._kernel = walk, walk.kernel

    def follow(self, sockets: U64, origins: Origins) -> list[HeldFrames]:
        """What each ``struct socket`` holds."""
        kernel = self._kernel
        socks, ok = kernel.gather_member("socket", "sk", sockets)
        ok &= kernel.arch.kernel_pointer(socks)
        socks, origins = socks[ok], origins.take(ok)
        family, ok = kernel.gather_member("sock", "__sk_common.skc_family", socks)
        families = {number: np.flatnonzero(ok & (family == number)) for number in (_AF_UNIX, _AF_PACKET, _AF_XDP)}
        found = [HeldFrames.zeros(0)]
        if kernel.has("xdp_umem", "pgs"):  # else built without AF_XDP
            at = families[_AF_XDP]
            found += self._umems(socks[at], origins.take(at))
        if kernel.has("packet_sock", "rx_ring") and kernel.has("packet_ring_buffer", "pg_vec_pages"):
            at = families[_AF_PACKET]
            found += [self._ring(name, socks[at], origins.take(at)) for name in _RINGS]
        if kernel.has("sk_buff", "head") and kernel.has("skb_shared_info", "frags"):
            at = families[_AF_UNIX]
            peers, ok = kernel.gather_member("unix_sock", "peer", socks[at])
            both = np.concatenate([np.arange(len(socks)), at[ok]])
            every = np.concatenate([socks, peers[ok]])
            first = np.sort(first_rows(every))
            first = first[kernel.arch.kernel_pointer(every[first])]
            found += self._messages(every[first], origins.take(both[first]))
        return found

    def _umems(self, socks: U64, origins: Origins) -> list[HeldFrames]:
        """The umem of each ``xdp_sock`` (net/xdp/xdp_umem.c)."""
        kernel, walk = self._kernel, self._walk
        umems, ok = kernel.gather_member("xdp_sock", "umem", socks)
        origins, umems = origins.take(ok), umems[ok]
        first = first_rows(umems)  # sockets may share one
        first = first[kernel.arch.kernel_pointer(umems[first])]
        umems, origins = umems[first], origins.take(first)
        rows, ok = kernel.gather(_Umems, umems)
        walk.lost(Problem.UNREADABLE, umems[~ok])
        umem, place = expand(walk.bounded(np.where(ok, rows.count, 0).astype(np.int64), umems))
        with np.errstate(over="ignore"):
            slot = rows.pages[umem] + _POINTER * place.astype(np.uint64)
        words, read = kernel.words(slot, 1)
        walk.lost(Problem.UNREADABLE, slot[~read])
        umem, slot, words = umem[read], slot[read], words[read]
        holders = np.full(len(umem), Holder.AF_XDP, np.uint8)
        return [walk.held(holders, umems[umem], slot, words[:, 0], origins.take(umem))]

    def _ring(self, name: str, socks: U64, origins: Origins) -> HeldFrames:
        """The blocks of a ring of each ``packet_sock``: memory of the kernel's own (alloc_pg_vec)."""
        kernel, walk = self._kernel, self._walk
        rings, ok = kernel.gather(_Rings, socks + np.uint64(kernel.offset("packet_sock", name)))
        walk.lost(Problem.UNREADABLE, socks[~ok])
        counts = np.where(ok & (rings.blocks != 0), rings.count, 0).astype(np.int64)
        ring, place = expand(walk.bounded(counts, socks))
        with np.errstate(over="ignore"):
            slot = rings.blocks[ring] + _POINTER * place.astype(np.uint64)
        words, read = kernel.words(slot, 1)
        read &= kernel.arch.kernel_pointer(words[:, 0])
        walk.lost(Problem.UNREADABLE, slot[~read])
        ring, slot, words = ring[read], slot[read], words[read]
        sizes = rings.pages[ring].astype(np.uint64) << np.uint64(kernel.arch.page_shift)
        return walk.of_memory(Holder.AF_PACKET, socks[ring], slot, words[:, 0], sizes, origins.take(ring))

    def _messages(self, socks: U64, origins: Origins) -> list[HeldFrames]:
        """What waits in the queues of each ``sock``: the fragments of buffers, and those of their lists."""
        kernel = self._kernel
        heads = [socks + np.uint64(kernel.offset("sock", name)) for name in _QUEUES]
        sock = np.tile(np.arange(len(socks)), len(heads))
        head = np.concatenate(heads)
        words, ok = kernel.words(head, 1)
        self._walk.lost(Problem.UNREADABLE, head[~ok])
        found: list[HeldFrames] = []
        seen: set[int] = set()
        sock, head, here = sock[ok], head[ok], words[ok, 0]
        while len(here):
            more = (here != head) & (here != 0)
            sock, head, here = sock[more], head[more], here[more]
            fits = kernel.arch.kernel_pointer(here) & ~np.array([at in seen for at in here.tolist()], np.bool_)
            self._walk.lost(Problem.NON_CANONICAL, head[~fits], here[~fits])
            sock, head, here = sock[fits], head[fits], here[fits]
            seen.update(here.tolist())
            if len(seen) > _MOST_BUFFERS:
                self._walk.lost(Problem.CUT_SHORT, head)
                break
            buffers, ok = kernel.gather(_Buffers, here)
            self._walk.lost(Problem.UNREADABLE, here[~ok])
            buffers, sock, head, here = buffers.take(ok), sock[ok], head[ok], here[ok]
            lists = self._data(buffers, here, sock, socks, origins, found)
            # A list of further buffers ends with NULL.
            sock = np.concatenate([sock, sock])
            head = np.concatenate([head, np.zeros(len(lists), np.uint64)])
            here = np.concatenate([buffers.next, lists])
        return found

    def _data(
        self, buffers: _Buffers, at: U64, sock: I64, socks: U64, origins: Origins, found: list[HeldFrames]
    ) -> U64:
        """Add the memory of buffers, which lie at ``at``, to ``found``; returns the list of further buffers of each."""
        kernel, walk = self._kernel, self._walk
        from_here = origins.take(sock)
        with np.errstate(over="ignore"):
            places = buffers.head + buffers.end
        shared, ok = kernel.gather(_Shared, places)
        ok &= kernel.arch.kernel_pointer(buffers.head)
        walk.lost(Problem.UNREADABLE, at[~ok])
        slot = at + np.uint64(kernel.offset("sk_buff", "head"))
        mine = np.flatnonzero(ok)
        found.append(
            walk.of_memory(
                *(Holder.SOCKET, socks[sock[mine]], slot[mine]),
                *(buffers.head[mine], buffers.end[mine].astype(np.uint64), from_here.take(mine)),
            )
        )
        frags = kernel.member("skb_shared_info", "frags")
        many = frags.count or 1
        counts = np.where(ok, np.minimum(shared.count, many), 0).astype(np.int64)
        row, place = expand(walk.bounded(counts, at))
        each = places[row] + np.uint64(frags.offset) + np.uint64(frags.extent // many) * place.astype(np.uint64)
        # A bio_vec up to 6.8, then one of its own, of which the lowest bit says that it is no page.
        struct, names = "bio_vec", ("bv_page", "bv_len", "bv_offset")
        if kernel.has("skb_frag", "netmem"):
            struct, names = "skb_frag", ("netmem", "len", "offset")
        (page, read), (length, _), (offset, _) = (kernel.gather_member(struct, name, each) for name in names)
        walk.lost(Problem.UNREADABLE, each[~read])
        usable = read & ((page & _NOT_A_PAGE) == 0)
        row, each, page = row[usable], each[usable], page[usable]
        piece, pages = walk.pieces(page, offset[usable], length[usable], each)
        row = row[piece]
        holders = np.full(len(row), Holder.SOCKET, np.uint8)
        found.append(walk.held(holders, socks[sock[row]], each[piece], pages, from_here.take(row)))
        return np.where(ok, shared.list, np.uint64(0))
