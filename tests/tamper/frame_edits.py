"""Labelled edits of single page frames: pages with code that no address leads to any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tamper.edits import Label
from tamper.page_edits import heap_entry
from tamper.text_edits import count_pages
from vmaforensics.checks.finding import Severity
from vmaforensics.views.pages.page_types import PageReader
from vmaforensics.views.pages.rss import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Edit

PAGE = 4096

# What a compiler makes of a loop that adds up what another function returns.
_FUNCTION = bytes.fromhex(
    "f30f1efa"  # endbr64
    "4885ff 0f8445000000"  # test rdi, rdi; je
    "4885f6 0f883c000000"  # test rsi, rsi; js
    "4154 4989fc 55 4889f5 53 31db"  # push; mov r12, rdi; push; mov rbp, rsi; push; xor ebx, ebx
    "4883ed01 4889ee 4c89e7 e8c4ffffff"  # sub rbp, 1; mov rsi, rbp; mov rdi, r12; call
    "4801c3 4885ed 75ed"  # add rbx, rax; test rbp, rbp; jne
    "49891c24 4889d8 5b 5d 415c c3"  # mov [r12], rbx; mov rax, rbx; pop; pop; pop; ret
    "48c7c0ffffffff c3 0f1f4000"  # mov rax, -1; ret; nop
)
FULL = (_FUNCTION * (PAGE // len(_FUNCTION) + 1))[:PAGE]

# write(1, …, 14); exit(0), as small as such code is made.
STUB = (
    bytes.fromhex(
        "6a01 58 6a01 5f"  # push 1; pop rax; push 1; pop rdi
        "488d3516000000 6a0e 5a 0f05"  # lea rsi, […]; push 14; pop rdx; syscall
        "4889c3 31ff b83c000000 0f05 e9fbffffff"  # mov rbx, rax; xor edi, edi; mov eax, 60; syscall; jmp
    )
    + b"nobody owns me"
)


def _struct_page(edit: Edit, pfn: int) -> int:
    return int(PageReader(edit.kernel).addresses(np.array([pfn], np.uint64))[0])


def _taken_out(edit: Edit, content: bytes) -> tuple[int, int]:
    """An anonymous page out of its process's page tables, resident counters repaired: (frame, its struct page)."""
    pte = heap_entry(edit)
    frame = int(pte.pfn[0])
    edit.overlay.write(frame << 12, content.ljust(PAGE, b"\0"))
    edit.overlay.write(int(pte.where[0]), bytes(8))
    count_pages(edit, int(edit.views.mms.mm[pte.mm_row[0]]), KINDS[1], -1)
    page = _struct_page(edit, frame)
    edit.put(edit.at("page", page, "_mapcount.counter"), -1, 4)
    edit.put(edit.at("page", page, "_refcount.counter"), 1, 4)
    return frame, page


def _nobodys(edit: Edit, content: bytes, technique: str, flags: int = 0) -> Label:
    """The page made one of the kernel's own: no flags but ``flags``, no mapping."""
    _, page = _taken_out(edit, content)
    count = edit.kernel.types.constant("__NR_PAGEFLAGS")
    assert count is not None
    edit.put(page, edit.get(page) & ~((1 << count) - 1) | flags)
    for member in ("mapping", "private"):
        edit.put(edit.at("page", page, member), 0)
    return Label(technique=technique, pid=0, start=0, end=0, rank=Severity.MEDIUM)


def page_parked(edit: Edit) -> Label:
    """A page of code out of the page tables while its process sleeps, its counts and flags those of kernel memory."""
    return _nobodys(edit, FULL, "page of code taken out, counters and page repaired")


def stub_parked(edit: Edit) -> Label:
    """The same with some ten instructions in an empty page."""
    return _nobodys(edit, STUB, "stub of code taken out, counters and page repaired")


def page_reserved(edit: Edit) -> Label:
    """The same, and the page marked reserved: whoever accounts for frames passes it over."""
    view, bit = edit.views.frames, edit.kernel.types.constant("PG_reserved")
    assert view is not None
    assert view.reserved.whole, "the zones are not in the image"
    assert bit is not None
    return _nobodys(edit, FULL, "page of code taken out and marked reserved, counters repaired", 1 << bit)


def page_pinned(edit: Edit) -> Label:
    """The page stays anonymous: as if it had been unmapped, and a driver held a reference."""
    _taken_out(edit, FULL)
    return Label(technique="page of code unmapped, a reference kept", pid=0, start=0, end=0, rank=Severity.MEDIUM)


FRAME_EDITS: tuple[Callable[[Edit], Label], ...] = (page_parked, stub_parked, page_reserved, page_pinned)
