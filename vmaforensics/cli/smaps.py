"""``vmaforensics smaps``: the bytes of ``/proc/PID/smaps``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from vmaforensics.cli.arguments import add_image, opened
from vmaforensics.cli.output import add_output, output
from vmaforensics.cli.report import require_pids
from vmaforensics.errors import ExitCode

if TYPE_CHECKING:
    import argparse


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "smaps",
        help="print /proc/PID/smaps",
        description="With --pid, what the machine's own /proc/PID/smaps would give; without, that of every process "
        "under a header line. Where page tables or struct pages of an area are not in the image, the lines that add "
        "them up are left out, and a note on stderr says of how many areas. Names are printed as the kernel prints "
        "them: only newlines are escaped, so do not send them to a terminal if the machine is not trusted.",
    )
    add_image(parser)
    parser.add_argument("--pid", type=int, action="append", metavar="N", help="only this process; may be repeated")
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the smaps of the processes asked for, or of all."""
    from vmaforensics.checks.context import comm_of
    from vmaforensics.cli.progress import watched
    from vmaforensics.kernel.find import find_kernel
    from vmaforensics.report.printable import printable
    from vmaforensics.report.smaps import SmapsPrinter
    from vmaforensics.views.gather import gather_views

    unknown: dict[int, int] = {}
    with output(args.output, force=args.force) as stream:
        with watched(args) as say:
            kernel = find_kernel(opened(args), say)
            views = gather_views(kernel, wanted=("page-tables",), progress=say)
        if args.pid:
            require_pids(views, args.pid)
        printer = SmapsPrinter(kernel, views)
        leaders = views.tasks[views.tasks["leader"] & (views.tasks["mm"] != 0)]
        for pid, mm, comm in zip(*(leaders[name].tolist() for name in ("pid", "mm", "comm")), strict=True):
            if args.pid and pid not in args.pid:
                continue
            if not args.pid or len(args.pid) > 1:
                stream.write(f"==> {pid} ({printable(comm_of(comm))}) <==\n".encode())
            stream.writelines(printer.lines(mm))
            unknown[mm] = printer.unknown(mm)
    count = sum(unknown.values())
    if count:
        sys.stderr.write(
            f"vmaforensics: figures of {count} area{'s' if count > 1 else ''} are left out: page tables or struct "
            "pages of theirs are not in the image\n"
        )
    return ExitCode.OK
