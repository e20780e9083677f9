"""Free pages that the buddy allocator has lent out: the per-CPU lists (per_cpu_pages, mm/page_alloc.c).

Such pages carry no mark of their own; only the lists say that they are free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import distinct, rows_of, sort_order, values_at
from vmaforensics.views.structures.per_cpu import per_cpu_offsets

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, U64, Bools
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.page_types import PageReader

_MOST_PAGES = 1 << 24  # on all lists together; pcp->high is a small part of a zone


def per_cpu_free(kernel: Kernel, reader: PageReader) -> tuple[U64, I64]:
    """``(first frame, order)`` of every free block on the per-CPU lists.

    All lists are followed at once, one step of each per read. A list that cannot be read on just ends there, and so
    does one that runs in a circle without its head, as torn ones do: it comes to where it was at a step that is a
    power of two (Brent).
    """
    heads, orders = _list_heads(kernel)
    link = np.uint64(kernel.offset("page", "pcp_list|lru"))  # pcp_list: 6.0, commit bf75f200569d
    at = marks = heads
    pages, found_orders = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    total = steps = 0
    while len(at) and total <= _MOST_PAGES:
        words, ok = kernel.words(at, 1)
        at = words[:, 0]
        on = ok & (at != heads) & (at != marks) & kernel.arch.kernel_pointer(at)
        at, heads, marks, orders = at[on], heads[on], marks[on], orders[on]
        steps += 1
        if steps & (steps - 1) == 0:
            marks = at
        pages.append(at - link)
        found_orders.append(orders)
        total += len(at)
    pfns, possible = reader.frames_of(np.concatenate(pages))
    return pfns[possible], np.concatenate(found_orders)[possible]


class Listed(NamedTuple):
    """Free blocks on the per-CPU lists."""

    pfns: U64  # first frame of each
    orders: I64
    whole: bool  # the heads of all lists could be read


def listed_free(kernel: Kernel, reader: PageReader, pfns: U64) -> Listed:
    """The same as :func:`per_cpu_free`, among frames ``pfns`` (ascending): a few reads, however long the lists are.

    A frame is on a list if the list leads to it, or it leads to the list, by links that are mutual. Of a list that is
    broken in one place both parts are found.
    """
    heads, orders = _list_heads(kernel)
    nodes = np.concatenate([heads, reader.addresses(pfns) + np.uint64(kernel.offset("page", "pcp_list|lru"))])
    links, read = kernel.words(nodes, 2)
    head = on_lists(len(heads), nodes, links, read)[len(heads) :]
    order = values_at(orders, head, -1)
    whole = len(heads) > 0 and bool(read[: len(heads)].all())
    return Listed(pfns[order >= 0], order[order >= 0], whole)


def on_lists(heads: int, nodes: U64, links: U64, read: Bools) -> I64:
    """On the list of which head each node is, by links that are mutual; -1: on none.

    ``nodes`` are addresses of ``struct list_head``, those of the ``heads`` lists first, ``links`` the words ``next``
    and ``prev`` of each, as far as they could be ``read``. Of a list that is broken in one place both parts are found.
    """
    by_node = sort_order(nodes)
    places = [rows_of(nodes[by_node], links[:, side]) for side in (0, 1)]
    after, before = (np.where(read, values_at(by_node, at, -1), -1) for at in places)
    rows = np.arange(len(nodes))
    head = np.full(len(nodes), -1, np.int64)
    for there, back in ((before, after), (after, before)):
        jump = np.where((there >= 0) & (back[there] == rows), there, rows)
        jump[:heads] = rows[:heads]
        for _ in range(len(nodes).bit_length()):
            jump = jump[jump]
        found = np.flatnonzero((jump < heads) & (rows >= heads))
        head[found] = jump[found]
    return head


def _list_heads(kernel: Kernel) -> tuple[U64, I64]:
    """(address, order) of each list head of every zone and CPU."""
    pagesets = _pagesets(kernel)
    offsets = per_cpu_offsets(kernel)
    at = 0
    if kernel.has("zone", "pageset"):  # renamed in 5.14, 28f836b6777b
        at = kernel.offset("per_cpu_pageset", "pcp")
    lists = kernel.member("per_cpu_pages", "lists")
    count, size = lists.count or 1, lists.size
    with np.errstate(over="ignore"):
        pcps = (pagesets[:, None] + offsets[None, :] + np.uint64(at + lists.offset)).reshape(-1, 1)
        heads = pcps + np.arange(count, dtype=np.uint64)[None, :] * np.uint64(size)
    # order_to_pindex: the migrate types of order 0, of order 1, …, and behind order 3 the huge pages.
    types = kernel.types.constant("MIGRATE_PCPTYPES") or 3
    order = np.arange(count) // types
    order[order > 3] = kernel.arch.huge_order
    return heads.reshape(-1), np.tile(order, len(heads))


def _pagesets(kernel: Kernel) -> U64:
    """The per-CPU pointer to the lists of every zone of every node."""
    pointers, ok = kernel.gather_member("zone", "per_cpu_pageset|pageset", zones(kernel))
    return distinct(pointers[ok & (pointers != 0)])


def zones(kernel: Kernel) -> U64:
    """Address of every ``struct zone`` of every node, of those without pages too."""
    nodes = kernel.symbols.get("node_data")
    if nodes is None:
        node = kernel.symbols.get("contig_page_data")  # without CONFIG_NUMA
        addresses = np.array([] if node is None else [node], np.uint64)
    else:
        mask = kernel.types.struct("nodemask_t")
        words, ok = kernel.words(np.array([nodes], np.uint64), 8 * mask.size if mask else 1)
        addresses = words[0][kernel.arch.kernel_pointer(words[0])] if ok[0] else np.zeros(0, np.uint64)
    array = kernel.member("pglist_data", "node_zones")
    steps = np.arange(array.count or 1, dtype=np.uint64) * np.uint64(array.size)
    found: U64 = (addresses[:, None] + (steps + np.uint64(array.offset))[None, :]).reshape(-1)
    return found
