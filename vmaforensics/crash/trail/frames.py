"""Words of a ``struct page`` that are not what they must be (``bad_page``, mm/page_alloc.c), and mappings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.crash.trail.word import BrokenWord, Sure, Trail
from vmaforensics.views.pages.mapped_pages import read_pages

if TYPE_CHECKING:
    from vmaforensics.crash.complaints import Complaint
    from vmaforensics.crash.trail.named import Named
    from vmaforensics.crash.trail.records import Records

_ANON: Final = 1  # PAGE_MAPPING_ANON
_FLAGS: Final = 3  # PAGE_MAPPING_FLAGS


class _Reason(NamedTuple):
    """What ``bad_page`` gives as its reason, and the member that is meant."""

    text: str
    member: str  # of struct page; members that a kernel may have, the first of which is taken
    expected: str


# page_bad_reason and free_tail_page_prepare of mm/page_alloc.c.
_REASONS: Final = (
    _Reason(r"nonzero (_?entire_|large_|compound_)?mapcount", "_mapcount", "-1: a free page is not mapped"),
    _Reason(r"non-NULL mapping", "mapping", "0: a free page belongs to nothing"),
    _Reason(r"corrupted mapping in tail page", "mapping", "0xdead000000000400 (TAIL_MAPPING)"),
    _Reason(r"nonzero _(ref)?count", "_refcount", "0: nobody holds a free page"),
    _Reason(r"PAGE_FLAGS_CHECK_AT_(FREE|PREP) flag", "flags", "none of the flags that only a page in use has"),
    _Reason(r"page still charged to cgroup", "memcg_data|mem_cgroup", "0: a free page is charged to nobody"),
    _Reason(r"page_pool leak", "pp_magic", "no PP_SIGNATURE"),
)


def follow_page(records: Records, complaint: Complaint) -> Trail:
    """``Bad page state``: the member of the struct page that the reason is about."""
    named, kernel, reader = complaint.named, records.kernel, records.pages
    frame, because = named.get("pfn"), named.texts.get("because", "")
    reason = next((reason for reason in _REASONS if re.match(reason.text, because)), None)
    trail = Trail()
    if frame is None or reader is None:
        return trail
    page = int(reader.addresses(np.array([frame], np.uint64))[0])
    path = next((path for path in (reason.member.split("|") if reason else ()) if kernel.has("page", path)), None)
    if reason is None or path is None:
        trail.notes.append(f"the struct page of frame {frame:#x} is at {page:#x}; the reason names no member of it")
        return trail
    field = kernel.member("page", path)
    address = page + field.offset
    trail.words.append(
        BrokenWord(
            what=f"page.{path} of page frame {frame:#x} (struct page {page:#x}){_place(records, named)}",
            address=address,
            physical=records.physical(address),
            user_address=_user_address(records, named),
            mm=records.mm_of(complaint.said.pid),
            found=_found(records, named, path, address, field.extent),
            expected=reason.expected,
            sure=Sure.CERTAIN,
            why=(f"the kernel met it when the page was given back: {because}",),
        )
    )
    return trail


def _user_address(records: Records, named: Named) -> int | None:
    """Where an anonymous page was mapped: its index counts pages from address 0."""
    index, arch = named.get("index"), records.kernel.arch
    return None if not index or index << arch.page_shift >= arch.user_top else index << arch.page_shift


def _place(records: Records, named: Named) -> str:
    address = _user_address(records, named)
    return (
        "" if address is None else f", index {address >> records.kernel.arch.page_shift:#x}: {address:#x} if anonymous"
    )


def _found(records: Records, named: Named, path: str, address: int, size: int) -> str:
    """What the complaint says the word held, and what it holds in the image."""
    said = {"_mapcount": "mapcount", "_refcount": "refcount"}.get(path)
    words = []
    if said is not None and said in named.numbers:
        words.append(f"{said} {named.numbers[said]} when the kernel complained")
    data, ok = records.kernel.space.gather(np.array([address], np.uint64), size)
    if ok[0]:
        words.append(f"{int.from_bytes(data[0].tobytes(), 'little'):#x} in the image")
    return ", ".join(words)


def broken_mapping(records: Records, page: int) -> BrokenWord | None:
    """The ``mapping`` of a struct page, if it leads to an object that it cannot mean.

    Bit 0 says that it leads to an ``anon_vma``, else to an ``address_space`` (include/linux/page-flags.h).
    """
    kernel, reader = records.kernel, records.pages
    if reader is None:
        return None
    frames, ok = reader.frames_of(np.array([page], np.uint64))
    if not ok[0] or not reader.mapped(frames)[0] or not kernel.has("page", "mapping"):
        return None
    pages = read_pages(kernel, frames)
    address = page + kernel.offset("page", "mapping")
    word = records.word(address)
    if word is None or not pages.ok[0] or pages.kernel_own[0] or word == 0:
        return None
    target = records.objects.at(word & ~_FLAGS)
    if target is None or word & ~_ANON != word & ~_FLAGS:
        return None
    means_anon = bool(word & _ANON)
    is_anon = target.cache == "anon_vma" and target.offset == 0
    # Drivers may keep an address_space anywhere: only what lies in an inode is known to be none of an anon_vma.
    if means_anon == is_anon or not (is_anon or "inode_cache" in target.cache):
        return None
    place = int(pages.index[0]) << kernel.arch.page_shift
    bit, taken = ("set", "anon_vma") if means_anon else ("clear", "address_space")
    told = f"it leads to {records.leads_to(target.start)}; bit 0 is {bit}: the kernel takes it for an {taken}"
    return BrokenWord(
        what=f"page.mapping of page frame {int(frames[0]):#x} (struct page {page:#x})",
        address=address,
        physical=records.physical(address),
        user_address=place if is_anon and place < kernel.arch.user_top else None,
        found=hex(word),
        expected=hex(word ^ _ANON),
        sure=Sure.CERTAIN,
        why=(told,),
    )
