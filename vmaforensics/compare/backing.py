"""What a VMA maps, and by what: its file, its anon_vma, its first page-table entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import ALLOW_EXECUTE, ALLOW_USER, ALLOW_WRITE, PteState
from vmaforensics.columns.lookup import rows_of
from vmaforensics.compare.records_document import Step
from vmaforensics.views.pages.ptes import place_keys
from vmaforensics.words.amounts import amount
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.views.views import Views
    from vmaforensics.views.vmas.vmas import Vmas

_ENTRIES = 6  # page-table entries shown
_LINKS = 8  # anon_vma_chains shown
_MINOR_BITS = 20  # MINORBITS, include/linux/kdev_t.h
_STATES = {
    PteState.PRESENT: "present",
    PteState.PROTNONE: "without access",
    PteState.SWAP: "swapped",
    PteState.OTHER: "migration, device or marker entry",
}


def decoded_vma(views: Views, vma: int) -> Vmas | None:
    """The VMA at ``vma`` as a table of one row, whichever record leads to it; None if none does."""
    tables = [views.vmas]
    tables += [views.rmap.vmas] if views.rmap is not None else []
    tables += [views.strays.vmas] if views.strays is not None else []
    for table in tables:
        row = int(rows_of(table.vma, np.array([vma], np.uint64))[0])
        if row >= 0:
            return table.take(slice(row, row + 1))
    return None


def file_steps(views: Views, vma: int) -> Iterator[Step]:
    """The file, its inode and address_space, and the VMA's node in the address_space's ``i_mmap``."""
    known = decoded_vma(views, vma)
    if known is None or not known.file[0]:
        return
    files = views.files
    row = int(files.rows_of(known.file)[0]) if files is not None else -1
    if files is None or row < 0:
        yield Step(record="file", address=hex(known.file[0]), facts={}, level=1)
    else:
        path, dev = files.paths[row], int(files.rows.dev[row])
        facts = {"path": printable(path) if path is not None else "?"}
        yield Step(record="file", address=hex(known.file[0]), facts=facts, level=1)
        facts = {
            "number": str(int(files.rows.ino[row])),
            "device": f"{dev >> _MINOR_BITS:02x}:{dev & ((1 << _MINOR_BITS) - 1):02x}",
            "links": str(int(files.rows.nlink[row])),
        }
        yield Step(record="inode", address=hex(files.rows.inode[row]), facts=facts, level=2)
        yield Step(record="address_space", address=hex(files.rows.mapping[row]), facts={}, level=2)
    if views.rmap is None:
        return
    nodes = views.rmap.file_nodes.take(views.rmap.file_nodes.vma == np.uint64(vma))
    for at in range(len(nodes)):
        facts = {
            "in the tree of": hex(nodes.tree[at]),
            "led here from": hex(nodes.slot[at]),
            "last page below": hex(nodes.last[at]),
        }
        yield Step(record="i_mmap node", address=hex(nodes.node[at]), facts=facts, level=3)
    if not len(nodes):
        yield Step(record="i_mmap", address=None, facts={"": "has no node of this VMA"}, level=3)


def anon_steps(views: Views, vma: int) -> Iterator[Step]:
    """The anon_vma, and the links of the VMA's chain with the trees they hang in."""
    known = decoded_vma(views, vma)
    if known is None or views.rmap is None:
        return
    rmap = views.rmap
    chains = rmap.chains.take(rmap.chains.vma == np.uint64(vma))
    if not known.anon_vma[0] and not len(chains):
        return
    facts: dict[str, str] = {}
    own = int(rows_of(rmap.anon_vmas.anon_vma, known.anon_vma)[0])
    if own >= 0:
        facts = {"root": hex(rmap.anon_vmas.root[own]), "parent": hex(rmap.anon_vmas.parent[own])}
        if rmap.anon_vmas.active[own] >= 0:
            facts["num_active_vmas"] = str(int(rmap.anon_vmas.active[own]))
    yield Step(record="anon_vma", address=hex(known.anon_vma[0]), facts=facts, level=1)
    for at in range(min(len(chains), _LINKS)):
        nodes = rmap.anon_nodes.node[rmap.anon_nodes.item == chains.avc[at]]
        facts = {
            "leads to": hex(chains.anon_vma[at]),
            "tree node": hex(nodes[0]) if len(nodes) else "in no tree",
        }
        yield Step(record="anon_vma_chain", address=hex(chains.avc[at]), facts=facts, level=2)
    if len(chains) > _LINKS:
        yield Step(record="", address=None, facts={"": f"and {len(chains) - _LINKS} more links"}, level=2)


def page_steps(views: Views, mm_row: int, start: int, end: int) -> Iterator[Step]:
    """The first page-table entries in ``[start, end)`` of the mm in row ``mm_row`` of ``views.mms``, with what
    ``struct page`` says of the frame. Addresses of entries are physical."""
    view = views.page_tables
    if view is None:
        return
    keys = place_keys(view.arch, np.full(2, mm_row), np.array([start, min(end, (1 << 64) - 1)], np.uint64))
    low, high = view.entries.below(keys).tolist() if mm_row >= 0 else (0, 0)
    ptes = view.entries.take(slice(low, min(high, low + _ENTRIES)))
    if not len(ptes):
        whole = mm_row >= 0 and bool(view.whole[mm_row])
        why = "lead nowhere in this range" if whole else "could not be read whole; no entry was seen"
        yield Step(record="page tables", address=None, facts={"": why})
    pages, sizes = view.pages, ptes.sizes(view.arch)
    for at in range(len(ptes)):
        state = PteState(int(ptes.state[at]))
        facts = {"va": hex(ptes.va[at]), "entry": hex(ptes.entry[at]), "": _STATES[state]}
        if state <= PteState.PROTNONE:
            facts |= {"pfn": hex(ptes.pfn[at]), "allows": _allows(int(ptes.allow[at]))}
        page = int(ptes.page_row[at])
        if page >= 0:
            facts |= {
                "page.mapping": hex(pages.mapping[page]) + (" (anon_vma)" if pages.anon[page] else ""),
                "index": hex(pages.index[page]),
                "mapped": str(int(pages.mapcount[page])),
            }
        yield Step(record=f"entry ({amount(int(sizes[at]))})", address=hex(ptes.where[at]), facts=facts, level=1)
    if high - low > _ENTRIES:
        yield Step(record="", address=None, facts={"": f"and {high - low - _ENTRIES} more entries"}, level=1)


def _allows(allow: int) -> str:
    """What an entry allows over all levels, ALLOW_*: writing, use in user mode, execution."""
    bits = (("w", ALLOW_WRITE), ("u", ALLOW_USER), ("x", ALLOW_EXECUTE))
    return "".join(letter if allow & bit else "-" for letter, bit in bits)
