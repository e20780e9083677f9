"""What is said of a frame that holds code and is in no memory map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.checks.finding import Evidence
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context
    from vmaforensics.views.frames.unowned import UnownedCode


def code_evidence(context: Context, code: UnownedCode, row: int, what: str) -> Evidence:
    """A frame of ``code``, which is ``what``, its neighbours, and its first bytes."""
    shift = context.views.arch.page_shift
    pfn, first, count = int(code.pfn[row]), int(code.first[row]), int(code.count[row])
    run = "alone" if count == 1 else f"in a run of {count} such frames from {first:#x} on"
    return Evidence(
        what=f"page frame {pfn:#x} is {what}, {run}; its bytes from {int(code.offset[row]):#x} on are machine code",
        view=View.PAGES.label,
        address=pfn << shift,
        found=code.data[row].tobytes().hex(" "),
    )
