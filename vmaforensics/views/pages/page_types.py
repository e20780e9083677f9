"""How this kernel's ``struct page`` says what a page frame is used for, asked by presence, never by version.

The type of a page that is not mapped lies where other pages keep their map count. It has been encoded as

* one bit taken away from all ones, ``#define``\\ d and so not in BTF (up to 6.10; commit 6e292b9be7f4, 4.18),
* the same with the bits as enumerators ``PG_buddy`` … of ``enum pagetype`` (6.11),
* a number in the highest byte, ``PGTY_buddy`` … (6.12, commit 4ffca5a96678).

Whatever BTF does not have, VMCOREINFO states as the whole word (``NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.table import Table, columns_of, member, table
from vmaforensics.columns.types import U32, U64, Bools
from vmaforensics.views.pages.vmemmap import vmemmap_pages

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_BASE = 0x80000000  # set in every page type, clear in every map count
# include/linux/page-flags.h of 4.18 to 6.10. No other source has PG_table.
_DEFINED = {"buddy": 0x80, "offline": 0x100, "table": 0x200}
_TABLE_BEHIND_KMEMCG = 0x400  # PG_kmemcg had 0x200 until page.memcg_data came (5.11, 18b2db3b0385)
_POISON = np.uint64(2**64 - 1)  # of a struct page that was never initialised: PAGE_POISON_PATTERN, mm/debug.c
_RUN = 1 << 10  # pages of vmemmap read at once: they fit into the caches of a CPU
_MASKS = np.uint64(0xFFFFFFFF_00000000)  # no vmemmap lies up there, and every compound_info mask does


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeCode:
    """A page is of the type if ``page_type & mask == value``."""

    mask: int
    value: int

    def matches(self, page_type: U32) -> Bools:
        """Which of the words say so."""
        found: Bools = (page_type & np.uint32(self.mask)) == np.uint32(self.value)
        return found


def type_code(kernel: Kernel, name: str) -> TypeCode | None:
    """The code of the page type ``name`` ("buddy", "slab", "hugetlb"…); None if the kernel has none."""
    top = kernel.types.constant(f"PGTY_{name}")
    if top is not None:
        return TypeCode(mask=0xFF << 24, value=top << 24)
    bit = kernel.types.constant(f"PG_{name}")
    if bit is None or bit < 64:  # PG_slab and PG_hugetlb have been page flags: those are bit numbers
        stated = _stated(kernel, name)
        if stated is not None:
            bit = ~stated & 0xFFFFFFFF
        elif name in _DEFINED and _defined(kernel):
            bit = _DEFINED[name]
            if name == "table" and _behind_kmemcg(kernel):
                bit = _TABLE_BEHIND_KMEMCG
        else:
            return None
    return TypeCode(mask=_BASE | bit, value=_BASE)


def _defined(kernel: Kernel) -> bool:
    """Does this kernel have the page types of ``_DEFINED``?"""
    if kernel.types.constant("PGTY_buddy") is not None or kernel.types.constant("PG_buddy") is not None:
        return False
    stated = _stated(kernel, "buddy")
    return stated is None or ~stated & 0xFFFFFFFF == _DEFINED["buddy"]


def _behind_kmemcg(kernel: Kernel) -> bool:
    """Is PG_kmemcg before PG_table? A kernel without memory cgroups has no member that says so, but it has no page of
    the former type either, and many page tables."""
    if kernel.has("page", "memcg_data"):
        return False
    return kernel.has("page", "mem_cgroup") or kernel.shared(_more_of_the_second_type)


def _more_of_the_second_type(kernel: Kernel) -> bool:
    reader = PageReader(kernel)
    at, counts = kernel.offset("page", "page_type"), [0, 0]
    codes = [TypeCode(mask=_BASE | bit, value=_BASE) for bit in (_DEFINED["table"], _TABLE_BEHIND_KMEMCG)]
    for piece in vmemmap_pages(kernel, int(reader.base), reader.size):
        data = piece.data[piece.ok]
        rows = data[:, : data.shape[1] // reader.size * reader.size].reshape(-1, reader.size)
        words = np.ascontiguousarray(rows[:, at : at + 4]).view("<u4").reshape(-1)
        counts = [count + int(code.matches(words).sum()) for count, code in zip(counts, codes, strict=True)]
    return counts[1] > counts[0]


def _stated(kernel: Kernel, name: str) -> int | None:
    info = kernel.vmcoreinfo
    return info.number(f"PAGE_{name.upper()}_MAPCOUNT_VALUE") if info else None


def bit_set(words: U64, bit: int) -> Bools:
    """Whether bit number ``bit`` is set in each word."""
    found: Bools = (words >> np.uint64(bit)) & np.uint64(1) != 0
    return found


@table(struct="page")
class StructPages(Table):
    """The words of ``struct page`` that say what a frame is (include/linux/mm_types.h); a row is a frame.

    Read by :meth:`PageReader.read`, in the order asked for.
    """

    flags: U64 = member("flags.f|flags")  # struct memdesc_flags_t since 6.18 (53fbef56e07d)
    head: U64 = member("compound_info|compound_head")  # compound_info since 7.1
    mapping: U64 = member("mapping")  # of a slab, where slab_cache lies there
    private: U64 = member("private")  # of a free block, its order
    # Has always been there where BTF is (4.18); compound_dtor left for struct folio in 6.3.
    page_type: U32 = member("page_type")  # the map count of a page that is mapped


class PageReader:
    """Reads ``struct page`` by frame number, and tells heads, types and flags from what it read.

    Raises :class:`KernelNotFoundError` if the kernel's types have no such structure or members.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.base = np.uint64(kernel.arch.vmemmap(kernel.variable))
        self.size = kernel.sizeof("page")

    def addresses(self, pfns: U64) -> U64:
        """Where the struct page of each frame lies."""
        with np.errstate(over="ignore"):
            places: U64 = self.base + pfns * np.uint64(self.size)
        return places

    def read(self, pfns: U64) -> tuple[StructPages, Bools]:
        """The struct page of each frame, and which could be read.

        Not ``ok``: the struct page is not in the image, there is none, or it was never initialised.
        """
        rows, ok = self.kernel.gather(StructPages, self.addresses(pfns))
        ok &= rows.flags != _POISON
        return rows, ok

    def read_run(self, first: int, count: int) -> tuple[StructPages, Bools]:
        """As :meth:`read`, of ``count`` frames from ``first`` on. Many times faster: vmemmap is read as it lies."""
        page, size = self.kernel.arch.page_size, self.size
        if page % size or int(self.base) % page:
            return self.read(first + np.arange(count, dtype=np.uint64))
        low = first // (page // size)
        high = -(-(first + count) * size // page)
        places = {name: self.kernel.member("page", known.path) for name, known in columns_of(StructPages).items()}
        total = (high - low) * (page // size)
        columns = {name: np.zeros(total, known.dtype) for name, known in columns_of(StructPages).items()}
        readable = np.zeros(total, np.bool_)
        for at in range(low, high, _RUN):
            pages = np.uint64(at) + np.arange(min(_RUN, high - at), dtype=np.uint64)
            with np.errstate(over="ignore"):
                data, ok = self.kernel.space.gather(self.base + self.kernel.arch.bytes_of(pages), page)
            rows = slice((at - low) * page // size, (at - low + len(pages)) * page // size)
            for name, place in places.items():
                columns[name][rows] = np.ndarray(
                    len(pages) * page // size, place.dtype.base, data.data, place.offset, (size,)
                )
            readable[rows] = np.repeat(ok, page // size)
        wanted = slice(first - low * page // size, first - low * page // size + count)
        found = StructPages(**{name: values[wanted] for name, values in columns.items()})
        return found, readable[wanted] & (found.flags != _POISON)

    def mapped(self, pfns: U64) -> Bools:
        """Whether the kernel has a struct page of each frame, in the image or not."""
        return self.kernel.space.translate(self.addresses(pfns))[2]

    def heads(self, pfns: U64, rows: StructPages) -> U64:
        """Frame number of the compound page each frame belongs to; its own if to none.

        Bit 0 of the word marks a tail page; the rest points to the head or, where ``struct page`` has a
        size of 2**n, masks the tail's own address (include/linux/page-flags.h ``_compound_head``, 7.1).
        """
        word = rows.head
        heads = pfns.copy()
        tail = (word & np.uint64(1)) != 0
        own = self.addresses(pfns)
        with np.errstate(over="ignore"):
            head = np.where(word >= _MASKS, own & word, word - np.uint64(1)) - self.base
        heads[tail] = (head // np.uint64(self.size))[tail]
        return heads

    def frames_of(self, pages: U64) -> tuple[U64, Bools]:
        """Frame numbers of ``struct page`` addresses, and which addresses can be one."""
        with np.errstate(over="ignore"):
            offset = pages - self.base
        size = np.uint64(self.size)
        return offset // size, (offset % size == 0) & (pages >= self.base)

    def hugetlb_heads(self, rows: StructPages, raw_next: U64) -> Bools:
        """Which rows are the head of a hugetlb page. ``raw_next`` is what :meth:`tail_words` gave."""
        code = type_code(self.kernel, "hugetlb")
        if code is not None:
            return code.matches(rows.page_type)
        kind, wanted = self._tail_mark()
        head_bit = self.kernel.types.constant("PG_head")
        if not kind or head_bit is None:
            return np.zeros(len(rows), np.bool_)
        said = raw_next == np.uint64(wanted) if kind == "dtor" else bit_set(raw_next, wanted)
        return bit_set(rows.flags, head_bit) & said

    def tail_words(self, pfns: U64) -> U64:
        """What the first tail page says of the compound page that begins at each frame; zero if unread.

        Only kernels before the page type "hugetlb" need it: a destructor number up to 6.5, a flag since.
        """
        kind, _ = self._tail_mark()
        if not kind or type_code(self.kernel, "hugetlb") is not None:
            return np.zeros(len(pfns), np.uint64)
        offset, size = self._tail_place()
        with np.errstate(over="ignore"):
            places = self.addresses(pfns) + np.uint64(offset)
        data, _ = self.kernel.space.gather(places, size)
        return data.view(f"<u{size}").reshape(-1).astype(np.uint64)

    def _tail_mark(self) -> tuple[str, int]:
        wanted = self.kernel.types.constant("HUGETLB_PAGE_DTOR")
        if wanted is not None:
            return "dtor", wanted
        wanted = self.kernel.types.constant("PG_hugetlb")
        return ("flag", wanted) if wanted is not None and wanted < 64 else ("", 0)

    def _tail_place(self) -> tuple[int, int]:
        """(offset from the head's struct page, size) of the word that :meth:`_tail_mark` speaks of."""
        if self._tail_mark()[0] == "flag":
            return self.size + self.kernel.offset("page", "flags.f|flags"), 8
        if self.kernel.has("page", "compound_dtor"):
            return self.size + self.kernel.offset("page", "compound_dtor"), 1
        return self.kernel.offset("folio", "_folio_dtor"), 1
