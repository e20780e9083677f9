"""Frames that are allocated and that nobody accounts for: which of them hold code.

There are a thousand or two of them in any kernel: hash tables, trace buffers, buffers of drivers. Code is in none: the
kernel's own is in its image and in vmalloc, that of programs in the page cache and in anonymous memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.runs import run_numbers
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I64, U8, U64, Bools, U8Wide
from vmaforensics.views.pages.frame_kinds import FrameKind

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.frames.owners import Accounted
    from vmaforensics.views.pages.page_types import PageReader

_MOST = 1 << 18  # frames looked into: 1 GiB
_BATCH = 1 << 10
_HELD = 8 * _BATCH  # frames read before the image is released
_FIRST = 16  # bytes kept
_RANDOM_FILLED = 0.95  # of the bytes of a page of random ones are not 0, at least
_RANDOM_BITS = 7.8  # a byte; a page of random ones has 7.95
# What the kernel keeps of its image. The gaps between and what is needed to boot alone are given to the allocator
# (free_initmem, mm/init.c; mark_rodata_ro, arch/x86/mm/init_64.c).
_PARTS = (
    ("_text", "_etext"),
    ("__start_rodata", "__end_rodata"),
    ("_sdata", "__init_begin"),
    ("__init_end", "_end"),
)


@table()
class UnownedCode(Table):
    """A frame with code that nobody accounts for, ascending."""

    pfn: U64
    first: U64  # of the run of frames that nobody accounts for which it lies in
    count: I64  # frames of the run
    offset: I64  # in the frame, of its first byte that is not zero
    data: U8Wide  # the bytes there


class Looked(NamedTuple):
    """What :func:`find_code` found."""

    code: UnownedCode
    random: U64  # frames whose content looks encrypted or compressed, ascending
    frames: int  # asked for
    unread: int  # of these, not in the image
    left_out: int  # of these, more than are looked into


def unowned_frames(kernel: Kernel, reader: PageReader, accounted: Accounted) -> U64:
    """The frames that are ``KERNEL`` or large kmalloc, that the kernel may not execute, and that are allocated,
    ascending.

    One without a reference is on its way to or from the allocator, which lists it nowhere then and has not cleared it
    yet; unless it lies behind a frame that has one, in the same block of a power of two (an allocation of several pages
    without __GFP_COMP, of which only the first has a reference).
    """
    kinds = accounted.kinds
    nobodys = kinds.are(FrameKind.KERNEL, FrameKind.LARGE_KMALLOC)
    pfns = kinds.pfns(np.flatnonzero(nobodys & ~accounted.executable).astype(np.int64))
    references, ok = kernel.gather_member("page", "_refcount.counter", reader.addresses(pfns))
    rows = np.arange(len(pfns))
    head = np.maximum.accumulate(np.where(ok & (references != 0), rows, -1))
    first = pfns[np.maximum(head, 0)]
    behind = pfns - first
    block = first & (~first + np.uint64(1))  # the largest that begins there
    in_block = (head >= 0) & (behind == (rows - head).astype(np.uint64)) & ((behind < block) | (first == 0))
    found: U64 = pfns[in_block]
    return found


def reserved_frames(kernel: Kernel, accounted: Accounted) -> U64:
    """The frames that are reserved, that the kernel may not execute, and that are no part of what it keeps of its
    image, ascending."""
    kinds = accounted.kinds
    pfns = kinds.pfns(np.flatnonzero(kinds.are(FrameKind.RESERVED) & ~accounted.executable).astype(np.int64))
    parts = [tuple(kernel.symbols.get(name) for name in part) for part in _PARTS]
    known = [(start, end) for start, end in parts if start is not None and end is not None and start < end]
    if len(known) < len(_PARTS):
        known = [(kernel.symbols.get("_text") or 0, kernel.symbols.get("_end") or 1)]
    own = np.zeros(len(pfns), np.bool_)
    for part in known:
        (start, last), _, mapped = kernel.space.translate(np.array([part[0], part[1] - 1], np.uint64))
        own |= mapped.all() & (pfns >= kernel.arch.pages(start)) & (pfns <= kernel.arch.pages(last))
    return pfns[~own]


def find_code(kernel: Kernel, pfns: U64) -> Looked:
    """Code in each of ``pfns``, which ascend; frames that follow each other are a run."""
    begins = np.ones(len(pfns), np.bool_)
    begins[1:] = pfns[1:] != pfns[:-1] + np.uint64(1)
    run = run_numbers(begins)
    looked = pfns[:_MOST]
    random = [np.zeros(0, np.uint64)]
    found, unread = [UnownedCode.zeros(0).replace(data=np.zeros((0, _FIRST), np.uint8))], 0
    for low in range(0, len(looked), _BATCH):
        part = looked[low : low + _BATCH]
        with kernel.memory.untraced():
            data, ok = kernel.memory.gather(kernel.arch.bytes_of(part), kernel.arch.page_size)
        if not low % _HELD:
            kernel.memory.release()
        unread += int((~ok).sum())
        filled = np.flatnonzero(data.view(np.uint64).any(axis=1))
        code = filled[kernel.arch.looks_like_code(data[filled])]
        random.append(part[filled[looks_random(data[filled])]])
        offset = (data[code] != 0).argmax(axis=1).astype(np.int64)
        padded = np.concatenate([data[code], np.zeros((len(code), _FIRST), np.uint8)], axis=1)
        at = run[low + code]
        found.append(
            UnownedCode(
                pfn=part[code],
                first=pfns[np.searchsorted(run, at)],
                count=np.searchsorted(run, at, "right") - np.searchsorted(run, at),
                offset=offset,
                data=np.take_along_axis(padded, offset[:, None] + np.arange(_FIRST), axis=1),
            )
        )
        for pfn in part[code].tolist():
            kernel.memory.touch(pfn << kernel.arch.page_shift, kernel.arch.page_size)
    return Looked(
        code=UnownedCode.concatenate(found),
        random=np.concatenate(random),
        frames=len(pfns),
        unread=unread,
        left_out=len(pfns) - len(looked),
    )


def looks_random(pages: U8) -> Bools:
    """Which ``pages`` (a row of bytes each) use all bytes as evenly as what is encrypted or compressed does."""
    size = pages.shape[1]
    found = np.zeros(len(pages), np.bool_)
    may_be = np.flatnonzero(np.count_nonzero(pages, axis=1) >= _RANDOM_FILLED * size)
    rows = np.arange(len(may_be), dtype=np.int64)[:, None] << 8
    counts = np.bincount((rows | pages[may_be]).reshape(-1), minlength=len(may_be) << 8).reshape(-1, 256)
    share = counts / size
    bits = -(share * np.log2(np.where(share > 0, share, 1))).sum(axis=1)
    found[may_be[bits > _RANDOM_BITS]] = True
    return found
