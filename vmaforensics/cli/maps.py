"""``vmaforensics maps``: the bytes of ``/proc/PID/maps``."""

from __future__ import annotations

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
        "maps",
        help="print /proc/PID/maps, byte for byte",
        description="With --pid, exactly the bytes the machine's own /proc/PID/maps would give; without, the maps of "
        "every process under a header line. Names are printed as the kernel prints them: only newlines are "
        "escaped, so do not send them to a terminal if the machine is not trusted.",
    )
    add_image(parser)
    parser.add_argument("--pid", type=int, action="append", metavar="N", help="only this process; may be repeated")
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the maps of the processes asked for, or of all."""
    from vmaforensics.checks.context import comm_of
    from vmaforensics.cli.progress import watched
    from vmaforensics.kernel.find import find_kernel
    from vmaforensics.report.maps import maps_lines
    from vmaforensics.report.printable import printable
    from vmaforensics.views.gather import gather_views

    with output(args.output, force=args.force) as stream:
        with watched(args) as say:
            kernel = find_kernel(opened(args), say)
            views = gather_views(kernel, wanted=(), progress=say)
        if args.pid:
            require_pids(views, args.pid)
        leaders = views.tasks[views.tasks["leader"] & (views.tasks["mm"] != 0)]
        columns = zip(*(leaders[name].tolist() for name in ("pid", "mm", "comm")), strict=True)
        for pid, mm, comm in columns:
            if args.pid and pid not in args.pid:
                continue
            if not args.pid or len(args.pid) > 1:
                stream.write(f"==> {pid} ({printable(comm_of(comm))}) <==\n".encode())
            stream.writelines(maps_lines(kernel, views, mm))
    return ExitCode.OK
