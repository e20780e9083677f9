"""Who points at page frames: by an address in the direct map, or by that of the ``struct page``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import covering_rows, distinct, last_rows_of, rows_of, values_at
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import U64, Bools
from vmaforensics.views.pages.frame_kinds import FrameKind
from vmaforensics.views.pages.vmemmap import vmemmap_runs
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.slab.any_cache import find_objects
from vmaforensics.words.printable import decoded

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.frame_kinds import FrameKinds
    from vmaforensics.views.pages.page_types import PageReader

_KEEPERS = (
    FrameKind.SLAB,
    FrameKind.LARGE_KMALLOC,
    FrameKind.RESERVED,
    FrameKind.KERNEL,
    FrameKind.VMALLOC,
    FrameKind.MAPPED,
    FrameKind.KEPT,
)
_MOST_FRAMES = 1 << 18  # looked through: 1 GiB
_MOST = 1 << 12  # pointers
_BATCH = 1 << 10
_HELD = 8 * _BATCH  # frames read before the image is released


@table()
class FramePointers(Table):
    """A word that leads to a frame, by its physical address."""

    pfn: U64  # it leads to
    pa: U64  # physical address of the word
    word: U64
    piece: Bools  # it lies in a slab, with a length and an offset behind it: a bio_vec, or a fragment of a packet


def find_pointers(
    kernel: Kernel, reader: PageReader, kinds: FrameKinds, pfns: U64, among: U64 | None = None
) -> FramePointers:
    """Every word in the kernel's own memory, or in the frames ``among``, that leads to one of ``pfns`` (ascending), up
    to a bound.

    ``struct page`` itself is no such memory: free lists and the like link pages with each other.
    """
    found = [FramePointers.zeros(0)]
    direct, page = np.uint64(kernel.arch.direct_map(kernel.variable)), kernel.arch.page_size
    keepers = among
    if keepers is None:
        keepers = kinds.all_of(*_KEEPERS)
    keepers = keepers[~_in_vmemmap(kernel, reader, keepers)][:_MOST_FRAMES]
    slab = kinds.of(keepers) == FrameKind.SLAB
    structs, places = reader.addresses(pfns), direct + kernel.arch.bytes_of(pfns)
    total = 0
    for low in range(0, len(keepers), _BATCH):
        part = keepers[low : low + _BATCH]
        with kernel.memory.untraced():
            data, _ = kernel.memory.gather(kernel.arch.bytes_of(part), page)
        if not low % _HELD:
            kernel.memory.release()
        words = data.view("<u8").reshape(-1)
        may_be = np.flatnonzero(
            ((words >= structs[0]) & (words <= structs[-1] + np.uint64(reader.size)))
            | ((words >= places[0]) & (words < places[-1] + np.uint64(page)))
        )
        row = rows_of(structs, words[may_be])
        inside = last_rows_of(places, words[may_be])
        with np.errstate(over="ignore"):
            near = words[may_be] - values_at(places, inside) < np.uint64(page)
        row = np.where(row >= 0, row, np.where((inside >= 0) & near, inside, -1))
        at, row = may_be[row >= 0], row[row >= 0]
        behind = np.append(words, np.uint64(0))[at + 1]
        length, offset = behind & np.uint64(0xFFFFFFFF), behind >> np.uint64(32)
        found.append(
            FramePointers(
                pfn=pfns[row],
                pa=kernel.arch.bytes_of(part)[at // (page // 8)] + np.uint64(8) * (at % (page // 8)).astype(np.uint64),
                word=words[at],
                piece=(length > 0)
                & (length + offset <= np.uint64(page))
                & (words[at] == structs[row])
                & slab[low + at // (page // 8)],
            )
        )
        total += len(at)
        if total > _MOST:
            break
    return FramePointers.concatenate(found)


def places_of(kernel: Kernel, pointers: FramePointers) -> list[str]:
    """Where each of ``pointers`` stands: ``kmalloc-64 at 0xffff…``, ``tcp_hashinfo+0x10``."""
    addresses = np.uint64(kernel.arch.direct_map(kernel.variable)) + pointers.pa
    found = find_objects(kernel, addresses, ProblemLog())
    image = _in_image(kernel, pointers.pa)
    symbols = kernel.symbols.by_address()
    nearest = symbols.nearest(image)
    texts = []
    for row, (address, cache) in enumerate(zip(addresses.tolist(), found.places.cache.tolist(), strict=True)):
        text = f"{address:#x}"
        if cache >= 0:
            text = f"{decoded(found.names[cache] or b'?')} at {address:#x}"
        elif image[row] and nearest.row[row] >= 0:
            text = f"{symbols.name(int(nearest.row[row]))}+{int(image[row] - nearest.start[row]):#x}"
        texts.append(text)
    return texts


def variable_frames(kernel: Kernel) -> U64:
    """The frames of the kernel's image behind its code: those of its variables are among them."""
    start, end = kernel.symbols.get("_etext"), kernel.symbols.get("_end")
    if start is None or end is None:
        return np.zeros(0, np.uint64)
    page = kernel.arch.page_size
    count = min(max(end - start, 0) // page + 1, _MOST_FRAMES)
    pas, _, mapped = kernel.space.translate(np.uint64(start) + np.arange(count, dtype=np.uint64) * np.uint64(page))
    return distinct(kernel.arch.pages(pas[mapped]))


def _in_image(kernel: Kernel, pas: U64) -> U64:
    """Address in the kernel image of each physical address, 0 where it is not in it."""
    start, end = kernel.symbols.get("_text"), kernel.symbols.get("_end")
    if start is None or end is None:
        return np.zeros(len(pas), np.uint64)
    begin, _, mapped = kernel.space.translate(np.array([start], np.uint64))
    with np.errstate(over="ignore"):
        into = pas - begin[0]
    inside: Bools = into < np.uint64(end - start)
    return np.where(inside & mapped[0], np.uint64(start) + into, np.uint64(0))


def _in_vmemmap(kernel: Kernel, reader: PageReader, pfns: U64) -> Bools:
    """Which frames struct pages lie in."""
    runs = vmemmap_runs(kernel, int(reader.base), reader.size)
    runs = runs.sort_by(runs.pa)
    ends = runs.pa + (runs.end - runs.start)
    found: Bools = covering_rows(kernel.arch.pages(runs.pa), kernel.arch.pages(ends) + np.uint64(1), pfns) >= 0
    return found
