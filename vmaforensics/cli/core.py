"""``vmaforensics core``: a process as an ELF core file that debuggers open."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vmaforensics.cli.arguments import add_image, add_owner, opened, size
from vmaforensics.cli.output import add_output, output
from vmaforensics.errors import ExitCode

_DESCRIPTION = """\
Write a process as an ELF core file: every VMA, the registers of every thread, the mapped files, the auxiliary
vector, and memory that the kernel's own index hides: VMAs that only other records lead to, and what the page
tables map without any VMA. A note of the name VMAFORENSICS, and FILE.json beside it, say which that is and which
records show it.

FILE.json lists every page that is not in the image. Such pages have segments without bytes: a debugger says that
it cannot read them, and shows no zeros in their place. Of files, pages that the process had not mapped yet are
taken from the page cache.

The names of mapped files are those of the image. A debugger looks for them on this machine: give it the files of
the other one with `set sysroot DIR`.
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "core",
        help="write a process as an ELF core file, hidden memory included",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_image(parser)
    add_owner(parser)
    parser.add_argument("--max", type=size, metavar="BYTES", help="allow more than 16G; K, M, G and T are understood")
    add_output(parser, required=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read every view, write the core file and its manifest."""
    from vmaforensics.cli.progress import watched
    from vmaforensics.compare.ranges import mm_row
    from vmaforensics.export.core.core import MOST_BYTES, core_manifest, make_core, write_core
    from vmaforensics.export.core.text import summary
    from vmaforensics.kernel.find import find_kernel
    from vmaforensics.views.gather import gather_views
    from vmaforensics.words.printable import printable

    target = Path(args.output)
    beside = target.with_name(f"{target.name}.json")
    with watched(args) as say:
        image = opened(args, say)
    with output(str(target), force=args.force) as stream, output(str(beside), force=args.force) as manifest:
        with watched(args) as say:
            kernel = find_kernel(image, say)
            views = gather_views(kernel, image.cpus, progress=say)
            pid = int(views.mms.pid[mm_row(views, args.mm)]) if args.pid is None else args.pid
            core = make_core(kernel, views, image.cpus, pid, args.mm, MOST_BYTES if args.max is None else args.max)
            say("core")
            write_core(kernel, core, stream)
        manifest.write(core_manifest(kernel, core, {"image": printable(str(image.path)), "image_size": image.size}))
    sys.stdout.writelines(summary(core))
    sys.stdout.write(f"{printable(str(target))}\n{printable(str(beside))}\n")
    return ExitCode.OK
