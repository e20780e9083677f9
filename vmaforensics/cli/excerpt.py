"""``vmaforensics excerpt``: a smaller image to analyse, to share, or to keep."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from vmaforensics.cli.arguments import add_image, opened
from vmaforensics.cli.output import add_output, output
from vmaforensics.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.export.excerpt import Selection
    from vmaforensics.image.kdump.writer import Written

_DESCRIPTION = """\
Write a smaller image, kdump-compressed with zstd, that holds

  analysis  the pages that report, crash and log read, and no page of user memory: neither anonymous memory nor
            page cache nor huge pages; the report of the excerpt is that of the image, except for what compares
            user memory
  kernel    every page but free ones and user memory, for drgn, crash and volatility3 to work on
  all       every page the image holds

Kernel memory holds traces of users too, and neither `analysis` nor `kernel` removes them: names of processes,
files and hosts, registers of the CPUs, keys, the kernel log, and what system calls have left on kernel stacks.
`--without log` and `--without stacks` let `analysis` leave these out, except for what report reads of them (saved
registers). `--without code` leaves out the kernel's own code, which is no secret and half of the excerpt;
whether it was patched is then not assessed. `analysis` keeps whole pages, so also the neighbours of the objects it
reads; what a freed slab object or the slack of an allocation last held stays.
`kernel` keeps in addition what is on its way through the kernel: buffers of sockets, pipes, terminals and
drivers, and memory that the kernel shares with processes (BPF maps, rings of io_uring and of
packet sockets). Neither keeps a free page or one of unknown use unless the analysis reads it; stale pointers
may lead it there, and the summary counts such pages.
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "excerpt",
        help="write a smaller image with just the pages the analysis reads",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_image(parser)
    parser.add_argument("--keep", choices=("analysis", "kernel", "all"), default="analysis", help="default: analysis")
    parser.add_argument(
        "--without",
        choices=("log", "stacks", "code"),
        action="append",
        default=[],
        help="with analysis: leave out the kernel's log, what is on kernel stacks, or the kernel's code, half of an "
        "excerpt; may be repeated",
    )
    add_output(parser, required=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the excerpt, and a summary to stdout."""
    from vmaforensics.cli.progress import watched
    from vmaforensics.export.excerpt import Keep, select, write_selection
    from vmaforensics.words.printable import printable

    if args.without and args.keep != Keep.ANALYSIS:
        raise UsageError("--without is for --keep analysis: the other two keep such pages for what they are")
    with watched(args) as say:
        image = opened(args, say)
    target = Path(args.output)
    with output(args.output, force=args.force) as stream, watched(args) as say:
        selection = select(image, Keep(args.keep), say, args.without)
        written = write_selection(cast("BinaryIO", stream), image, selection, say)
    for line in summary(selection, written):
        sys.stdout.write(line + "\n")
    sys.stdout.write(f"{printable(str(target))}: {written.size} bytes, of {image.size}\n")
    return ExitCode.OK


def summary(selection: Selection, written: Written) -> Iterator[str]:
    """Lines that say how many pages were kept of those held, by what they are used for."""
    from vmaforensics.views.pages.frame_kinds import FrameKind

    yield f"{'pages':12}{'kept':>12}{'held':>12}"
    if selection.kinds is not None:
        for kind in FrameKind:
            here = selection.kinds == kind
            if here.any():
                yield f"{kind.label:12}{int((here & selection.kept).sum()):12}{int(here.sum()):12}"
    yield f"{'all':12}{written.held + written.zero:12}{len(selection.held):12}"
    if written.absent:
        yield f"{written.absent} pages could not be read whole and were left out"
    if selection.withheld:
        yield (
            f"{selection.withheld} pages that the analysis reads are user memory and were left out; the report of "
            "the excerpt will differ there"
        )
