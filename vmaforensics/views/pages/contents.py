"""What the contents of a page look like, in a word."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.ptes import Ptes

_AT_ONCE = 256  # pages
_PRINTABLE = bytes([*range(32, 127), *b"\t\n\r"])


def page_contents(kernel: Kernel, ptes: Ptes) -> list[str]:
    """What the first page that each entry maps holds; empty where the image does not have it.

    Only asked of memory that no VMA accounts for.
    """
    named = ptes.maps_frames() & ~ptes.special
    said: list[str] = []
    for low in range(0, len(ptes), _AT_ONCE):
        part = slice(low, low + _AT_ONCE)
        data, ok = kernel.memory.gather(kernel.arch.bytes_of(ptes.pfn[part]), kernel.arch.page_size)
        said += [
            "no page" if not page else content_class(row.tobytes()) if readable else ""
            for row, readable, page in zip(data, ok.tolist(), named[part].tolist(), strict=True)
        ]
        kernel.memory.release()  # where an index is torn, nothing has a VMA: pages from all over memory
    return said


def content_class(page: bytes) -> str:
    """What the contents of a page look like: ELF, script, zeros, text or data."""
    if page.startswith(b"\x7fELF"):
        return "an ELF header"
    if page.startswith(b"#!"):
        return "a script"
    if not page.strip(b"\0"):
        return "zeros"
    return "data" if page.rstrip(b"\0").translate(None, _PRINTABLE) else "text"
