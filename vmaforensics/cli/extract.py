"""``vmaforensics extract``: the bytes of a region, and a manifest of what is missing of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vmaforensics.cli.arguments import add_image, address, opened, size
from vmaforensics.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from vmaforensics.export.extract import Region

_DESCRIPTION = """\
Write the bytes of a region, read through the page tables of its process, into a file of the folder DIR, and
manifest.json beside it. A page whose bytes are not in the dump is written as zeros and listed in the manifest,
which has the state, page frame and permissions of every page, and the SHA-256 of every file.

  --pid N --at ADDR   the VMA of the process that covers ADDR; where no VMA does, the entries around it that only
                      the page tables know
  --elf               with the above: the whole program or library that ADDR lies in, as an ELF file again: its
                      segments as they are in memory, program headers that fit the file, no sections
  --executable        every region that can be executed, of the process or of all, hidden ones included; each
                      content once, called by its SHA-256, with everyone who has it in the manifest
  --finding ID        the range of a finding; ID as in the JSON report
  --pfn N             COUNT page frames from N, for memory that no page table leads to any more

What is written is somebody's memory, and may be malware: it is not made executable.
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "extract",
        help="write the bytes of a region, with a manifest of what is missing",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_image(parser)
    parser.add_argument("--pid", type=int, metavar="N", help="the process; goes with --at or --executable")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--at", type=address, metavar="ADDR", help="a user address, hexadecimal")
    what.add_argument("--executable", action="store_true", help="all code; without --pid of every process")
    what.add_argument("--finding", metavar="ID", help="the id of a finding")
    what.add_argument("--pfn", type=address, metavar="N", help="the first page frame number, hexadecimal")
    parser.add_argument("--elf", action="store_true", help="with --at: the ELF file mapped there, rebuilt")
    parser.add_argument("--count", type=int, default=1, metavar="M", help="with --pfn: how many frames (default: 1)")
    parser.add_argument("--max", type=size, metavar="BYTES", help="allow more than 4G; K, M, G and T are understood")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="the folder; made if need be")
    parser.add_argument("--force", action="store_true", help="write into DIR though it is not empty")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Find the region, write it, say what is missing."""
    from vmaforensics.analysis import analyse_image
    from vmaforensics.cli.progress import watched
    from vmaforensics.export.extract import MANIFEST, MOST_BYTES, check_size, extract, open_folder
    from vmaforensics.export.extract_regions import finding_regions, frame_regions, process_regions
    from vmaforensics.kernel.find import find_kernel
    from vmaforensics.views.gather import gather_views
    from vmaforensics.words.printable import printable

    if args.at is not None and args.pid is None:
        raise UsageError("--at needs --pid")
    if args.pid is not None and args.at is None and not args.executable:
        raise UsageError("--pid goes with --at or --executable only")
    if args.elf and args.at is None:
        raise UsageError("--elf needs --at: an address within the program or library")
    if args.elf or args.executable:
        return _code(args)
    folder = Path(args.output)
    with watched(args) as say:
        image = opened(args, say)
    regions: list[Region]
    with watched(args) as say:
        if args.finding is not None:
            analysis = analyse_image(image, progress=say)
            kernel, views = analysis.kernel, analysis.views
            regions = finding_regions(views, analysis.findings, args.finding)
        else:
            kernel = find_kernel(image, say)
            views = gather_views(kernel, image.cpus, progress=say)
            if args.pfn is not None:
                regions = frame_regions(kernel, args.pfn, args.count)
            else:
                regions = process_regions(views, args.pid, args.at)
    check_size(regions, MOST_BYTES if args.max is None else args.max)
    open_folder(folder, force=args.force)
    facts: dict[str, object] = {"image": printable(str(image.path)), "image_size": image.size}
    if args.finding is not None:
        facts["finding"] = printable(args.finding)
    for file in extract(kernel, views, regions, folder, facts):
        states = ", ".join(f"{count} {name}" for name, count in file.counts.items())
        sys.stdout.write(f"{file.region.file}: {file.region.what}; pages: {states}\n")
    sys.stdout.write(f"{printable(str(folder / MANIFEST))}\n")
    return ExitCode.OK


def _code(args: argparse.Namespace) -> int:
    """Write the ELF file that an address lies in, or everything that can be executed."""
    from vmaforensics.cli.progress import watched
    from vmaforensics.export.evidence_folder import write_code, write_elf
    from vmaforensics.export.extract import MANIFEST, MOST_BYTES, open_folder
    from vmaforensics.kernel.find import find_kernel
    from vmaforensics.views.gather import gather_views
    from vmaforensics.words.printable import printable

    folder = Path(args.output)
    with watched(args) as say:
        image = opened(args, say)
    facts: dict[str, object] = {"image": printable(str(image.path)), "image_size": image.size}
    with watched(args) as say:
        kernel = find_kernel(image, say)
        views = gather_views(kernel, image.cpus, progress=say)
        open_folder(folder, force=args.force)
        say("extract")
        if args.elf:
            lines = write_elf(kernel, views, folder, args.pid, args.at, facts)
        else:
            lines = write_code(kernel, views, folder, args.pid, MOST_BYTES if args.max is None else args.max, facts)
    sys.stdout.writelines(lines)
    sys.stdout.write(f"{printable(str(folder / MANIFEST))}\n")
    return ExitCode.OK
