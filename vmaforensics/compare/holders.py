"""What an area maps, and by what: its file, its anon_vma, its first page-table entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import ALLOW_EXECUTE, ALLOW_USER, ALLOW_WRITE, PteState
from vmaforensics.compare.side_by_side import Step
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.views.views import Views

_ENTRIES = 6  # page-table entries told
_LINKS = 8  # anon_vma_chains told
_MINOR_BITS = 20
_STATES = {
    PteState.PRESENT: "present",
    PteState.PROTNONE: "without access",
    PteState.SWAP: "swapped",
    PteState.OTHER: "migration, device or marker entry",
}


def area_row(views: Views, vma: int) -> np.void | None:
    """The decoded VMA (dtype ``VMAS``), whichever view led to it."""
    tables = [views.vmas]
    tables += [views.rmap.vmas] if views.rmap is not None else []
    tables += [views.strays.vmas] if views.strays is not None else []
    for table in tables:
        hit: np.void
        for hit in table[table["vma"] == np.uint64(vma)]:
            return hit
    return None


def file_steps(views: Views, vma: int) -> Iterator[Step]:
    """The file, its inode and address_space, and the area's node in the address_space's ``i_mmap``."""
    area = area_row(views, vma)
    if area is None or not area["file"]:
        return
    facts: dict[str, str] = {}
    mapping = 0
    files = views.files
    row = int(files.rows_of(np.array([area["file"]], np.uint64))[0]) if files is not None else -1
    if files is not None and row >= 0:
        one, path = files.rows[row], files.paths[row]
        facts["path"] = printable(path) if path is not None else "?"
        mapping = int(one["mapping"])
    yield Step(record="file", address=hex(int(area["file"])), facts=facts, level=1)
    if files is not None and row >= 0:
        dev = int(one["dev"])
        facts = {
            "number": str(int(one["ino"])),
            "device": f"{dev >> _MINOR_BITS:02x}:{dev & ((1 << _MINOR_BITS) - 1):02x}",
            "links": str(int(one["nlink"])),
        }
        yield Step(record="inode", address=hex(int(one["inode"])), facts=facts, level=2)
        yield Step(record="address_space", address=hex(mapping), facts={}, level=2)
    if views.rmap is None:
        return
    nodes = views.rmap.file_nodes[views.rmap.file_nodes["vma"] == np.uint64(vma)]
    for node in nodes:
        facts = {"in the tree of": hex(int(node["tree"])), "led here from": hex(int(node["slot"]))}
        facts["last page below"] = hex(int(node["last"]))
        yield Step(record="i_mmap node", address=hex(int(node["node"])), facts=facts, level=3)
    if not len(nodes):
        yield Step(record="i_mmap", address=None, facts={"": "has no node of this area"}, level=3)


def anon_steps(views: Views, vma: int) -> Iterator[Step]:
    """The anon_vma, and the links of the area's chain with the trees they hang in."""
    area = area_row(views, vma)
    if area is None or views.rmap is None:
        return
    rmap = views.rmap
    chains = rmap.chains[rmap.chains["vma"] == np.uint64(vma)]
    if not area["anon_vma"] and not len(chains):
        return
    facts: dict[str, str] = {}
    own = rmap.anon_vmas[rmap.anon_vmas["anon_vma"] == area["anon_vma"]]
    for one in own:
        facts = {"root": hex(int(one["root"])), "parent": hex(int(one["parent"]))}
        if one["active"] >= 0:
            facts["num_active_vmas"] = str(int(one["active"]))
    yield Step(record="anon_vma", address=hex(int(area["anon_vma"])), facts=facts, level=1)
    for one in chains[:_LINKS]:
        node = rmap.anon_nodes[rmap.anon_nodes["item"] == one["avc"]]
        facts = {"leads to": hex(int(one["anon_vma"]))}
        facts["tree node"] = hex(int(node["node"][0])) if len(node) else "in no tree"
        yield Step(record="anon_vma_chain", address=hex(int(one["avc"])), facts=facts, level=2)
    if len(chains) > _LINKS:
        yield Step(record="", address=None, facts={"": f"and {len(chains) - _LINKS} more links"}, level=2)


def page_steps(views: Views, mm_row: int, start: int, end: int) -> Iterator[Step]:
    """The first page-table entries of a range, with what ``struct page`` says of the frame. Addresses of
    entries are physical."""
    view = views.page_tables
    if view is None:
        return
    ptes = view.ptes[view.ptes["mm_row"] == mm_row]
    low, high = np.searchsorted(ptes["va"], [np.uint64(start), np.uint64(end)]).tolist()
    mine = ptes[low : max(high, low)]
    if not len(mine):
        whole = mm_row >= 0 and bool(view.whole[mm_row])
        why = "lead nowhere in this range" if whole else "could not be read whole; no entry was seen"
        yield Step(record="page tables", address=None, facts={"": why})
    for pte in mine[:_ENTRIES]:
        allow = int(pte["allow"])
        rights = "".join(
            letter if allow & bit else "-"
            for letter, bit in (("w", ALLOW_WRITE), ("u", ALLOW_USER), ("x", ALLOW_EXECUTE))
        )
        facts = {"va": hex(int(pte["va"])), "entry": hex(int(pte["entry"])), "": _STATES[PteState(int(pte["state"]))]}
        if int(pte["state"]) <= PteState.PROTNONE:
            facts |= {"pfn": hex(int(pte["pfn"])), "allows": rights}
        if pte["page_row"] >= 0:
            page = view.pages[pte["page_row"]]
            facts |= {
                "page.mapping": hex(int(page["mapping"])) + (" (anon_vma)" if page["anon"] else ""),
                "index": hex(int(page["index"])),
                "mapped": str(int(page["mapcount"])),
            }
        level = int(pte["level"])
        size = {1: "4 KiB", 2: "2 MiB", 3: "1 GiB"}.get(level, f"level {level}")
        yield Step(record=f"entry ({size})", address=hex(int(pte["where"])), facts=facts, level=1)
    if len(mine) > _ENTRIES:
        yield Step(record="", address=None, facts={"": f"and {len(mine) - _ENTRIES} more entries"}, level=1)
