"""Page frames by owner, and what lies in those that have none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import is_in
from vmaforensics.columns.runs import run_numbers
from vmaforensics.views.frames.buffers import BufferCode, find_buffer_code
from vmaforensics.views.frames.owners import account_for
from vmaforensics.views.frames.pointers import FramePointers, find_pointers, places_of, variable_frames
from vmaforensics.views.frames.reserved import Reserved, count_reserved
from vmaforensics.views.frames.stacks import stack_frames
from vmaforensics.views.frames.unmapped import UnmappedAnon, find_unmapped
from vmaforensics.views.frames.unowned import UnownedCode, find_code, reserved_frames, unowned_frames
from vmaforensics.views.pages.frame_kinds import classify_frames
from vmaforensics.views.pages.page_types import PageReader

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.descriptors.holders import HeldFrames
    from vmaforensics.views.pages.frame_kinds import FrameKinds
    from vmaforensics.views.pages.page_tables import PageTablesView

_MOST_POINTED = 64  # frames that pointers are looked for to

# Static keys, which count who enabled them: pages are cleared when they are allocated or freed, or poisoned when freed
# (mm/page_alloc.c, mm/page_poison.c).
_CLEARING = ("init_on_alloc", "init_on_free", "_page_poisoning_enabled")


@dataclass(frozen=True, slots=True, kw_only=True)
class FramesView:
    """Who owns each frame, and code in those that nobody accounts for."""

    kinds: FrameKinds
    whole: bool  # all of the kernel's page tables could be read
    cleared: bool  # pages are cleared or poisoned between two owners, or it is not known that they are not
    code: UnownedCode
    random: U64  # that look encrypted or compressed, ascending; without those that a variable of the kernel leads to
    buffers: BufferCode
    pointers: FramePointers  # to the first frames of ``code``; none are looked for where there are none
    places: list[str]  # of pointers: where each stands
    unowned: int  # frames that nobody accounts for
    unread: int  # of these, not in the image
    left_out: int  # of these, more than are looked into
    reserved: Reserved
    reserved_code: UnownedCode  # in reserved frames; looked for only if there are more of them than there should be
    kexec: bool  # another kernel is loaded: its frames are marked reserved
    unmapped: UnmappedAnon
    unmapped_left_out: int  # more of them than are looked at


def pages_cleared(kernel: Kernel) -> bool:
    """Whether pages keep nothing of what their last owner had in them; so, too, where the kernel does not say."""
    keys = [kernel.variable(name, 4) for name in _CLEARING]
    return keys[0] is None or any(keys)


def gather_frames(kernel: Kernel, page_tables: PageTablesView, held: HeldFrames, tasks: U64) -> FramesView:
    """Account for every frame of RAM, and look for code in what is left.

    ``page_tables`` are those of processes, ``held`` the frames that files hold, ``tasks`` task_structs: what programs
    hand to the kernel passes over their stacks, which are not looked into. Raises :class:`KernelNotFoundError`
    where the kernel has no struct page as we know it, or its own page tables are not known.
    """
    reader = PageReader(kernel)
    mapped = page_tables.mapped
    tables = kernel.arch.pages(page_tables.tables.pa)
    accounted = account_for(kernel, classify_frames(kernel), mapped=mapped, tables=tables, kept=held.pfn)
    stacks = stack_frames(kernel, tasks)
    unowned = unowned_frames(kernel, reader, accounted)
    looked = find_code(kernel, unowned[~is_in(unowned, stacks)])
    buffers = find_buffer_code(kernel, accounted, mapped=mapped, held=held, stacks=stacks)
    reserved = count_reserved(kernel, reader)
    too_many = reserved.whole and reserved.counted > reserved.expected
    marked = find_code(kernel, reserved_frames(kernel, accounted) if too_many else looked.code.pfn[:0])
    unmapped, unmapped_left_out = find_unmapped(kernel, reader, accounted.kinds, mapped=mapped, held=held)
    pointers = FramePointers.zeros(0)
    if len(looked.code):
        pointers = find_pointers(kernel, reader, accounted.kinds, looked.code.pfn[:_MOST_POINTED])
    return FramesView(
        kinds=accounted.kinds,
        whole=accounted.whole,
        cleared=pages_cleared(kernel),
        code=looked.code,
        random=_nobodys(kernel, reader, accounted.kinds, looked.random),
        buffers=buffers,
        pointers=pointers,
        places=places_of(kernel, pointers) if len(pointers) else [],
        unowned=looked.frames,
        unread=looked.unread,
        left_out=looked.left_out,
        reserved=reserved,
        reserved_code=marked.code,
        kexec=bool(kernel.variable("kexec_image", 8)),
        unmapped=unmapped,
        unmapped_left_out=unmapped_left_out,
    )


def _nobodys(kernel: Kernel, reader: PageReader, kinds: FrameKinds, pfns: U64) -> U64:
    """``pfns`` (ascending) without the runs that a variable of the kernel leads to, as it does to its hash tables."""
    if not len(pfns):
        return pfns
    begins = np.ones(len(pfns), np.bool_)
    begins[1:] = pfns[1:] != pfns[:-1] + np.uint64(1)
    run = run_numbers(begins)
    known = find_pointers(kernel, reader, kinds, pfns, variable_frames(kernel)).pfn
    return pfns[~np.isin(run, run[np.isin(pfns, known)])]
