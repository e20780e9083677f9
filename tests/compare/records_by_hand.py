"""Records beyond the indices, made by hand for :func:`tests.checks.handmade_views.views_of`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.known import DEFAULT
from vmaforensics.arch.page_tables import ALLOW_EXECUTE, ALLOW_USER, ALLOW_WRITE, IsolatedEntries, PteState, TablePages
from vmaforensics.arch.registers import Place
from vmaforensics.columns.lookup import covering_rows
from vmaforensics.columns.texts import Texts
from vmaforensics.views.anchors.anchors import AnchorsView, MmAnchors
from vmaforensics.views.anchors.cpus import Cpus
from vmaforensics.views.anchors.registers import Threads
from vmaforensics.views.anchors.signals import Handlers
from vmaforensics.views.pages.anon_roots import AnonRoots
from vmaforensics.views.pages.entries import KeptEntries
from vmaforensics.views.pages.map_ranges import MapRanges
from vmaforensics.views.pages.mapped_pages import Pages
from vmaforensics.views.pages.miscounted_frames import MiscountedFrames
from vmaforensics.views.pages.page_tables import PageTablesView
from vmaforensics.views.pages.ptes import Ptes
from vmaforensics.views.reverse_maps.anon_vma_chains import AnonVmaChains, AnonVmas
from vmaforensics.views.reverse_maps.mappings import Mappings
from vmaforensics.views.reverse_maps.reverse_maps import RmapView
from vmaforensics.views.slab.caches import Caches, ObjectKind
from vmaforensics.views.slab.objects import SlabView, State
from vmaforensics.views.slab.slab_pages import SlabLayout, Slabs
from vmaforensics.views.slab.strays import StrayVmas
from vmaforensics.views.structures.interval_tree import IntervalNodes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vmaforensics.views.views import Views
    from vmaforensics.views.vmas.vmas import Vmas

PAGE = DEFAULT.page_size
ENTRIES = 0x10_0000  # physical address of the first page-table entry
SLAB_PAGE = 0xFFFF_EA00_0000_0000
FILE_NODE, AVC, ANON_VMA = 0xFFFF_8900_0000_0000, 0xFFFF_8900_1000_0000, 0xFFFF_8900_2000_0000


def add_page_tables(views: Views, entries: Mapping[int, PteState], *, whole: bool = True) -> None:
    """Page-table entries of the first process, by user address; ``whole``: every table could be read."""
    va = np.array(sorted(entries), np.uint64)
    ranges = MapRanges.of(
        mm_row=views.mm_rows(views.union.mm).astype(np.int32),
        vma_row=views.union.vma_row.astype(np.int32),
        start=views.union.start,
        end=views.union.end,
    )
    first = ranges.take(ranges.mm_row == 0)
    ptes = Ptes.of(
        len(va),
        mm_row=[0] * len(va),
        level=[1] * len(va),
        state=[entries[address] for address in va.tolist()],
        allow=[ALLOW_USER | ALLOW_WRITE | ALLOW_EXECUTE] * len(va),
        va=va,
        where=ENTRIES + 8 * np.arange(len(va)),
        range_row=covering_rows(first.start, first.end, va),
    )
    orphans = np.flatnonzero(ptes.range_row < 0)
    views.page_tables = PageTablesView(
        arch=DEFAULT,
        entries=KeptEntries(DEFAULT, ptes),
        tables=TablePages.zeros(0),
        repeated=TablePages.zeros(0),
        ranges=ranges,
        pages=Pages.zeros(0),
        anon_roots=AnonRoots.zeros(0),
        miscounted=MiscountedFrames(pages=Pages.zeros(0), entries=np.zeros(0, np.int64)),
        rss=np.zeros((len(views.mms), 4), np.int64),
        rss_ok=np.zeros(len(views.mms), np.bool_),
        orphans=orphans,
        contents=["an ELF header"] * len(orphans),
        whole=np.full(len(views.mms), whole),
        isolated=IsolatedEntries.zeros(0),
        isolated_span=1 << 39,
        truncated=False,
    )


def add_slab(
    views: Views, states: Mapping[int, State], strays: Vmas | None = None, foreign: Sequence[int] = ()
) -> None:
    """A slab of one object for each address of a ``vm_area_struct`` in ``states``; what only the slab knows is in
    ``strays``, all of it part of a memory map."""
    address = np.array(sorted(states), np.uint64)
    caches = Caches.of(kind=[ObjectKind.VMA], cache=[SLAB_PAGE - PAGE], size=[256])
    slabs = Slabs.of(
        base=address,
        page=[SLAB_PAGE + 64 * at for at in range(len(address))],
        cache=[0] * len(address),
        objects=[1] * len(address),
        first=np.arange(len(address)),
    )
    views.slab = SlabView(
        layout=SlabLayout(caches=caches, slabs=slabs),
        state=np.array([states[vma] for vma in address.tolist()], np.uint8),
    )
    found = views.vmas.take(slice(0, 0)) if strays is None else strays
    views.strays = StrayVmas(
        vmas=found,
        state=np.full(len(found), State.ALLOCATED, np.uint8),
        attached=np.ones(len(found), np.bool_),
        avc=np.zeros(len(found), np.uint64),
        names=Texts.of([b""] * len(found)),
        foreign=np.array(foreign, np.uint64),
    )


def add_reverse_maps(views: Views) -> None:
    """Both reverse maps as the kernel would keep them: a node for each file VMA, and an anon_vma with a link for each
    VMA that has an ``anon_vma``."""
    vmas = views.vmas
    assert views.files is not None
    row = views.files.rows_of(vmas.file)
    mapping = np.where(row >= 0, views.files.rows.mapping[row], np.uint64(0))
    of_file, of_anon = np.flatnonzero(vmas.file != 0), np.flatnonzero(vmas.anon_vma != 0)
    known = np.unique(mapping[of_file])
    links = np.array([AVC + 64 * at for at in of_anon.tolist()], np.uint64)
    views.rmap = RmapView(
        mappings=Mappings.of(len(known), mapping=known, ok=[True] * len(known), whole=[True] * len(known)),
        file_nodes=IntervalNodes.of(
            len(of_file),
            tree=mapping[of_file],
            vma=vmas.vma[of_file],
            node=[FILE_NODE + 64 * at for at in of_file.tolist()],
        ),
        anon_vmas=AnonVmas.of(
            len(of_anon),
            anon_vma=np.sort(vmas.anon_vma[of_anon]),
            ok=[True] * len(of_anon),
            whole=[True] * len(of_anon),
        ),
        anon_nodes=IntervalNodes.of(
            len(of_anon), tree=vmas.anon_vma[of_anon], vma=vmas.vma[of_anon], item=links, node=links
        ),
        chains=AnonVmaChains.of(len(of_anon), vma=vmas.vma[of_anon], avc=links, anon_vma=vmas.anon_vma[of_anon]),
        vmas=vmas,
        mapping=mapping,
        parent_word=np.zeros(len(vmas), np.uint64),
        answered=np.zeros(len(vmas), np.bool_),
        torn_nodes=np.zeros(0, np.uint64),
        chain_cut=np.zeros(len(vmas), np.bool_),
        strays={},
        offsets={},
    )


def add_anchors(views: Views, ip: Sequence[int] = ()) -> None:
    """Anchors that ``views.mms`` has, and threads of the first process at ``ip``."""
    views.anchors = AnchorsView(
        mms=MmAnchors.of(len(views.mms), mm=views.mms.mm),
        threads=Threads.of(len(ip), mm=[views.mms.mm[0]] * len(ip), user=[True] * len(ip), ip=ip),
        place=Place(offset=0, fitting=0, tried=0, offsets={}),
        handlers=Handlers.zeros(0),
        cpus=Cpus.zeros(0),
    )
