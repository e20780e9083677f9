"""``vmaforensics excerpt``: a smaller image to analyse, to share, or to keep.

What is kept:

========  ==========================================================================================
analysis  the pages the analysis reads, and no page of user memory: neither anonymous memory nor the
          page cache nor huge pages. The report of the excerpt is that of the image.
kernel    every page but free ones and user memory, so that drgn, crash and volatility3 work on it
all       every page the image holds
========  ==========================================================================================

Kernel memory holds traces of users too, and neither ``analysis`` nor ``kernel`` removes them: names of
processes, files and hosts, registers of the CPUs, keys, the kernel log. ``analysis`` keeps whole pages, so
also the neighbours of the objects it reads; what a freed slab object or the slack of an allocation last
held stays. ``kernel`` keeps in addition what is on its way through the kernel: buffers of sockets, pipes,
terminals and drivers, kernel stacks, and memory that the kernel shares with processes (BPF maps, rings of
io_uring and packet sockets). Neither keeps a free page or one of unknown use unless the analysis reads it;
stale pointers may lead it there, and the summary counts such pages.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import KernelNotFoundError
from vmaforensics.image.excerpt import check_output, held_frames, write_excerpt
from vmaforensics.image.open import open_image
from vmaforensics.kernel.find import find_kernel
from vmaforensics.report.maps import maps_lines
from vmaforensics.views.frames import USER_KINDS, FrameKind, classify_frames, kinds_of
from vmaforensics.views.gather import gather_views

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.image.image import Image
    from vmaforensics.image.kdump_writer import Written
    from vmaforensics.kernel.kernel import Kernel

KEEP = ("analysis", "kernel", "all")
_KERNEL_KINDS = (FrameKind.SLAB, FrameKind.PAGE_TABLE, FrameKind.RESERVED, FrameKind.KERNEL)
_EXCLUDES = 31  # the dump level of makedumpfile that leaves out what we leave out


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The pages an excerpt will hold, and how they were chosen.

    ``held`` are the page frames of the image, ``kinds`` their :class:`FrameKind` (None: no kernel was found
    to ask), ``keep`` which of them are kept; all of one length. ``withheld`` counts the pages that the
    analysis read and that are left out because they are user memory: only pointers that a correct kernel does
    not have lead there.
    """

    kernel: Kernel | None
    held: NDArray[np.uint64]
    kinds: NDArray[np.uint8] | None
    keep: NDArray[np.bool_]
    withheld: int = 0


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = subparsers.add_parser(
        "excerpt",
        help="write a smaller image with only the pages an analysis needs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("image", type=Path, metavar="IMAGE", help="memory image or crash dump")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", required=True, help="file to write")
    parser.add_argument("--keep", choices=KEEP, default=KEEP[0], help="pages to keep (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the excerpt and a summary; returns the exit code.

    Raises the errors of opening an image and of finding a kernel, and :class:`OutputError`.
    """
    image = open_image(args.image)
    check_output(args.output, image, force=args.force)
    chosen = select(image, args.keep)
    pfns = chosen.held[chosen.keep]
    _progress(f"writing {len(pfns):,} pages")
    known = chosen.kernel.vmcoreinfo if chosen.kernel else None
    written = write_excerpt(
        args.output,
        image,
        pfns,
        vmcoreinfo=known.text if known else None,
        utsname=_utsname(chosen.kernel),
        dump_level=_dump_level(image) if args.keep == "all" else _EXCLUDES,
        force=args.force,
    )
    _progress("")
    sys.stdout.write(summary(args.output, image, chosen, written))
    return 0


def trace_analysis(image: Image) -> tuple[Kernel, NDArray[np.uint64]]:
    """(kernel, page frames that finding it and the whole analysis ask for), ascending uint64."""
    image.memory.start_trace()
    kernel = find_kernel(image)
    views = gather_views(kernel)
    for mm in views.mms["mm"].tolist():
        for _ in maps_lines(kernel, views, mm):
            pass
    return kernel, image.memory.traced()


def select(image: Image, keep: str) -> Selection:
    """Choose the pages of an excerpt; ``keep`` is one of :data:`KEEP`.

    Raises :class:`KernelNotFoundError` if there is no kernel to ask, unless every page is kept anyway.
    """
    _progress("reading the image")
    held = held_frames(image.memory)
    if keep == "all":
        kept = np.ones(len(held), np.bool_)
        try:
            kernel = find_kernel(image)
            kinds = kinds_of(held, *classify_frames(kernel))
        except KernelNotFoundError:
            return Selection(kernel=None, held=held, kinds=None, keep=kept)
        return Selection(kernel=kernel, held=held, kinds=kinds, keep=kept)
    kernel, traced = trace_analysis(image)
    _progress("telling user memory from kernel memory")
    kinds = kinds_of(held, *classify_frames(kernel))
    user = np.isin(kinds, USER_KINDS)
    read = np.isin(held, traced)
    kept = read & ~user
    if keep == "kernel":
        kept |= np.isin(kinds, _KERNEL_KINDS)
    return Selection(kernel=kernel, held=held, kinds=kinds, keep=kept, withheld=int((read & user).sum()))


def summary(out: Path, image: Image, chosen: Selection, written: Written) -> str:
    """The lines for standard output: pages kept of pages held by class, sizes."""
    lines = [f"{'pages':<12}{'kept':>12}{'held':>12}"]
    if chosen.kinds is not None:
        for kind in FrameKind:
            here = chosen.kinds == kind
            if here.any():
                lines.append(f"{kind.label:<12}{int((here & chosen.keep).sum()):>12,}{int(here.sum()):>12,}")
    lines.append(f"{'all':<12}{written.held + written.zero:>12,}{len(chosen.held):>12,}")
    if written.absent:
        lines.append(f"{written.absent:,} pages could not be read whole and were left out")
    if chosen.withheld:
        lines.append(
            f"{chosen.withheld:,} pages that the analysis reads are user memory and were left out; the "
            "report of the excerpt will differ there"
        )
    lines.append(f"{out}: {written.size:,} bytes (of {image.size:,})")
    return "\n".join(lines) + "\n"


def _utsname(kernel: Kernel | None) -> dict[str, str]:
    """What the header of the file says of the machine, as far as the banner tells; not the host's name."""
    if kernel is None:
        return {}
    names = {"release": kernel.identity.release}
    _, hash_sign, version = kernel.identity.banner.partition(" #")
    if hash_sign:
        names["version"] = f"#{version}"
    return {key: value for key, value in names.items() if value}


def _dump_level(image: Image) -> int:
    level = image.details.get("dump level", "0")
    return int(level) if level.isdigit() else 0


def _progress(text: str) -> None:
    """One line on standard error that the next call overwrites; only for people."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
