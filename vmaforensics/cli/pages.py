"""``vmaforensics pages``: the page-table entries of a process, with their pages and VMAs."""

from __future__ import annotations

import argparse
from typing import IO, TYPE_CHECKING

from vmaforensics.cli.arguments import add_image, add_owner, address, opened
from vmaforensics.cli.output import add_output, output
from vmaforensics.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views

_DESCRIPTION = """\
One line per run of equal neighbouring entries (with --each, per entry): address, number of 4 KiB pages, the entry,
its state and level, the page frame, what it allows over all levels, what the page belongs to, its index and
mapping, how often it is mapped, its flags. Where the frames of a run do not follow each other, the first is
shown with an ellipsis. A line that begins with ! disagrees with the VMA above it; the next line says how.

  present    for the CPU            prot_none  for the kernel only (PROT_NONE, NUMA hinting)
  swap       type:offset            other      migration, device-private, poisoned or marker entry

With --frame, --file or --inode the question is the other way round: which processes have it, where, and which
records show these regions.

  perm  r may be read by the user (k: by the kernel only), w written, x executed
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "pages",
        help="list the page-table entries of a process, with page, owner and VMA; or who has a frame or a file",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_image(parser)
    whose = add_owner(parser)
    whose.add_argument("--frame", type=address, metavar="PFN", help="who maps this page frame, hexadecimal")
    whose.add_argument("--file", metavar="PATH", help="who maps, runs or has opened this file, as the kernel shows it")
    whose.add_argument("--inode", type=int, metavar="N", help="the same by the number of the inode")
    parser.add_argument(
        "--at",
        type=address,
        metavar="ADDR",
        help="only the VMA that covers this address, or, where none does, the entries around it that no VMA covers",
    )
    parser.add_argument("--each", action="store_true", help="one line per entry, not per run")
    parser.add_argument("--format", choices=("text", "json", "csv"), default="text", help="default: text")
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List the entries of one process."""
    import msgspec

    from vmaforensics.cli.progress import watched
    from vmaforensics.compare.ranges import entries_within, mm_of, mm_row, range_at
    from vmaforensics.kernel.find import find_kernel
    from vmaforensics.report.document.page_entries import page_runs
    from vmaforensics.report.formats.page_runs import render_csv, render_text
    from vmaforensics.views.gather import gather_views

    with output(args.output, force=args.force) as stream:
        with watched(args) as say:
            kernel = find_kernel(opened(args, say), say)
            views = gather_views(kernel, progress=say)
        if args.pid is None and args.mm is None:
            _users(args, kernel, views, stream)
            return ExitCode.OK
        mm = mm_of(views, args.pid) if args.mm is None else args.mm
        pid = int(views.mms.pid[mm_row(views, mm)]) if args.pid is None else args.pid
        bounds = (0, 1 << 64) if args.at is None else range_at(views, mm, args.at)
        rows = entries_within(views, mm, *bounds)
        runs = page_runs(kernel, views, rows, each=args.each)
        if args.format == "json":
            asked = None if args.at is None else [hex(bound) for bound in bounds]
            head = msgspec.json.encode({"pid": pid, "mm": hex(mm), "range": asked})
            stream.write(head[:-1] + b',"runs":[')
            for number, run in enumerate(runs):
                stream.write((b"," if number else b"") + msgspec.json.encode(run))
            stream.write(b"]}\n")
        elif args.format == "csv":
            stream.writelines(line.encode() for line in render_csv(runs))
        else:
            stream.writelines(line.encode() for line in render_text(runs))
            if not rows:
                stream.write(b"no page-table entry is there\n")
    return ExitCode.OK


def _users(args: argparse.Namespace, kernel: Kernel, views: Views, stream: IO[bytes]) -> None:
    """Tell who has a frame or a file."""
    from vmaforensics.compare.users import file_text, file_users, frame_text, frame_users
    from vmaforensics.report.document.json_text import json_text

    if args.format == "csv" or args.at is not None or args.each:
        raise UsageError("--frame, --file and --inode go with --format text or json only")
    if args.frame is not None:
        frame = frame_users(kernel, views, args.frame)
        found, lines = json_text(frame), frame_text(frame)
    else:
        file = file_users(kernel, views, path=args.file, inode=args.inode)
        found, lines = json_text(file), file_text(file)
    if args.format == "json":
        stream.write(found + b"\n")
    else:
        stream.writelines(line.encode() for line in lines)
