"""What ``maps`` and ``smaps`` share: a file of ``/proc/PID`` of the processes asked for, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.cli.arguments import add_image, opened
from vmaforensics.cli.output import add_output, output
from vmaforensics.cli.report import require_pids

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Collection, Iterable

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The image, ``--pid`` and where to write."""
    add_image(parser)
    parser.add_argument("--pid", type=int, action="append", metavar="N", help="only this process; may be repeated")
    add_output(parser)


def write_each(
    args: argparse.Namespace,
    wanted: Collection[str],
    printer: Callable[[Kernel, Views], Callable[[int], Iterable[bytes]]],
) -> None:
    """Write the lines of each process, under a header where there may be more than one.

    ``wanted`` are the views to read in addition to the indices; ``printer`` gives, for what was read, a function from
    the address of an ``mm_struct`` to its lines.
    """
    from vmaforensics.cli.progress import watched
    from vmaforensics.kernel.find import find_kernel
    from vmaforensics.views.gather import gather_views
    from vmaforensics.words.printable import comm_of, printable

    with output(args.output, force=args.force) as stream:
        with watched(args) as say:
            kernel = find_kernel(opened(args, say), say)
            views = gather_views(kernel, wanted=wanted, progress=say)
        if args.pid:
            require_pids(views, args.pid)
        lines = printer(kernel, views)
        leaders = views.tasks.take(views.tasks.leader & (views.tasks.mm != 0))
        columns = (leaders.pid.tolist(), leaders.mm.tolist(), leaders.comm.tolist())
        for pid, mm, comm in zip(*columns, strict=True):
            if args.pid and pid not in args.pid:
                continue
            if not args.pid or len(args.pid) > 1:
                stream.write(f"==> {pid} ({printable(comm_of(comm))}) <==\n".encode())
            stream.writelines(lines(mm))
