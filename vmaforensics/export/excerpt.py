"""Which pages of an image an excerpt keeps. What each choice promises is in :mod:`vmaforensics.cli.excerpt`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from vmaforensics.analysis import analyse_image
from vmaforensics.crash.build import build_crash_document
from vmaforensics.crash.gather import PARTS, follow_with, gather_case
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.export.excerpt_file import held_frames, write_excerpt
from vmaforensics.image.kdump.writer import LEVEL
from vmaforensics.kernel.find import find_kernel
from vmaforensics.kernel.ram import system_ram
from vmaforensics.kernel.several import WORD_SIZE
from vmaforensics.proc.maps import maps_lines
from vmaforensics.proc.smaps import SmapsPrinter
from vmaforensics.progress import unheard
from vmaforensics.report.document.build import build_document
from vmaforensics.views.gather import EXTRA
from vmaforensics.views.pages.frame_kinds import USER_KINDS, FrameKind, classify_frames

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from vmaforensics.image.image import Image
    from vmaforensics.image.kdump.writer import Written
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.progress import Progress

_KERNEL_KINDS = (
    FrameKind.SLAB,
    FrameKind.LARGE_KMALLOC,
    FrameKind.PAGE_TABLE,
    FrameKind.RESERVED,
    FrameKind.KERNEL,
)


class Keep(StrEnum):
    """Which pages to keep."""

    ANALYSIS = "analysis"
    KERNEL = "kernel"
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The pages an excerpt will hold, and how they were chosen.

    ``held`` are the page frames the image holds (uint64), ``kinds`` their :class:`FrameKind` (uint8; None if there
    is no kernel to ask), ``kept`` which of them are kept (bool); all of one length. ``withheld`` counts the pages
    that the analysis reads and that are left out because they are user memory: only pointers that an untouched
    kernel does not have lead there.
    """

    keep: Keep
    kernel: Kernel | None
    held: NDArray[np.uint64]
    kinds: NDArray[np.uint8] | None
    kept: NDArray[np.bool_]
    withheld: int = 0


def trace_analysis(
    image: Image, progress: Progress = unheard, without: Collection[str] = ()
) -> tuple[Kernel, NDArray[np.uint64]]:
    """The kernel, and the page frames that finding it, the whole analysis and the case of a crash ask for (uint64,
    ascending). Of the case, the parts named in ``without`` are left out: see ``gather_case``; and with ``code`` in it
    the kernel's code, which is looked at wherever the kernel patches it.
    """
    image.memory.start_trace()
    views = [view for view in EXTRA if view != "patched" or "code" not in without]
    analysis = analyse_image(image, views=views, progress=progress)
    if analysis.views.page_tables is not None:
        SmapsPrinter(analysis.kernel, analysis.views)  # reads the settings that smaps shows
    for mm in analysis.views.mms.mm.tolist():
        for _ in maps_lines(analysis.kernel, analysis.views, mm):
            pass
    build_document(analysis, contents=False, log="log" not in without)  # the clock, what evidence points at
    case = gather_case(image, analysis.kernel, progress, [part for part in PARTS if part not in without])
    build_crash_document(follow_with(case, analysis.views, analysis.findings), lines=0, everyone=True)
    _read_for_raw(analysis.kernel)
    return analysis.kernel, image.memory.traced()


def _read_for_raw(kernel: Kernel) -> None:
    """What nobody reads of an image with headers and notes, and the excerpt needs if it is written as a raw file."""
    system_ram(kernel.space, kernel.symbols, kernel.types)
    text = kernel.variable("vmcoreinfo_data", WORD_SIZE)
    if text:
        kernel.space.gather(np.array([text], np.uint64), kernel.memory.page_size)


def select(image: Image, keep: Keep, progress: Progress = unheard, without: Collection[str] = ()) -> Selection:
    """Choose the pages; ``progress`` is called with how far that has come, ``without`` is as in :func:`trace_analysis`.

    Raises :class:`KernelNotFoundError` if there is no kernel to ask, unless every page is kept anyway.

    >>> selection = select(image, Keep.ANALYSIS)
    >>> with Path("small.kdump").open("wb") as stream:
    ...     write_selection(stream, image, selection)
    """
    held = held_frames(image.memory)
    if keep is Keep.ALL:
        kept = np.ones(len(held), np.bool_)
        try:
            kernel = find_kernel(image, progress)
            kinds = classify_frames(kernel).of(held)
        except KernelNotFoundError:
            return Selection(keep=keep, kernel=None, held=held, kinds=None, kept=kept)
        return Selection(keep=keep, kernel=kernel, held=held, kinds=kinds, kept=kept)
    kernel, traced = trace_analysis(image, progress, without)
    progress("kinds")
    kinds = classify_frames(kernel).of(held)
    user = np.isin(kinds, USER_KINDS)
    # libkdumpfile, and so drgn, translates kernel addresses from the page table that a CPU was using.
    registers = np.array([cpu.table_register for cpu in image.cpus if cpu.table_register], np.uint64)
    roots = kernel.arch.roots_of(registers)[0] >> np.uint64(image.memory.page_shift)
    read = np.isin(held, np.concatenate([traced, roots]))
    kept = read & ~user
    if keep is Keep.KERNEL:
        kept |= np.isin(kinds, _KERNEL_KINDS)
    return Selection(keep=keep, kernel=kernel, held=held, kinds=kinds, kept=kept, withheld=int((read & user).sum()))


def write_selection(
    stream: BinaryIO, image: Image, selection: Selection, progress: Progress = unheard, *, level: int = LEVEL
) -> Written:
    """Write the pages chosen, packed at zstd's ``level``. VMCOREINFO that was found in memory becomes a note of the
    new file."""
    kernel = selection.kernel
    image.memory.watch = partial(progress, "writing")
    return write_excerpt(
        stream,
        image,
        selection.held[selection.kept],
        vmcoreinfo=kernel.vmcoreinfo.text if kernel and kernel.vmcoreinfo else None,
        utsname=_utsname(kernel) if kernel else None,
        filtered=selection.keep is not Keep.ALL,
        level=level,
    )


def _utsname(kernel: Kernel) -> dict[str, str]:
    """What the banner tells of it; the machine's name stays out."""
    names = {"release": kernel.identity.release}
    _, number_sign, version = kernel.identity.banner.partition(" #")
    if number_sign:
        names["version"] = f"#{version}"
    return {key: value for key, value in names.items() if value}
