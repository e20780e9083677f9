"""``vmaforensics scan``: YARA rules over memory, each page once, with everyone who has it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vmaforensics.cli.arguments import add_one_image, opened
from vmaforensics.cli.output import add_output, output
from vmaforensics.errors import ExitCode, UsageError

_DESCRIPTION = """\
Scan memory with YARA rules (yara-x): what processes map, through their page tables, hidden regions included; the
page cache of every file, memfds and other files in memory among them; memory of mms that no task has; anonymous
pages and buffers that no page table leads to; frames in use that nobody accounts for; free frames. Every page is
scanned once in each neighbourhood it has: a page that fifty processes share gives one finding that names them,
with the regions it lies in and the records that show these.

What lies one behind the other in a region or a file is scanned together, up to 16 MiB; gaps of up to 16 pages are
zeros. The condition of a rule is about such a stretch: offsets and filesize count within it.

  files      page cache          unmapped  anonymous memory and buffers without a page-table entry
  processes  mapped memory       unowned   frames in use that nobody accounts for
  taskless   of mms without task free      what free frames still hold
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "scan",
        help="scan memory with YARA rules; strings and entropy",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_one_image(parser)
    parser.add_argument(
        "--yara",
        metavar="RULES",
        type=Path,
        nargs="+",
        default=[],
        help="files of rules, or folders of .yar and .yara files",
    )
    parser.add_argument(
        "--strings",
        metavar="LENGTH",
        type=int,
        nargs="?",
        const=8,
        default=0,
        help="list strings of at least LENGTH characters (default: 8), and the entropy of what is scanned",
    )
    parser.add_argument("--pid", type=int, action="append", metavar="N", help="only memory of this process; repeatable")
    parser.add_argument("--in", dest="kinds", metavar="KIND,…", help="only these kinds of memory; default: all")
    parser.add_argument("--timeout", type=int, metavar="S", default=60, help="seconds for one stretch (default: 60)")
    parser.add_argument(
        "--max-matches", type=int, metavar="N", default=100, help="of one pattern in one stretch (default: 100)"
    )
    parser.add_argument("--format", choices=("text", "json", "csv"), default="text", help="default: text")
    parser.add_argument("--fail-on-match", action="store_true", help="exit with 1 if a rule matches")
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compile the rules, read every view, scan."""
    from vmaforensics.cli.progress import watched
    from vmaforensics.image.limits import cores
    from vmaforensics.kernel.find import find_kernel
    from vmaforensics.report.document.json_text import json_text
    from vmaforensics.report.formats.scan_csv import scan_csv
    from vmaforensics.scan.document import ScanDocument, ScanSchema
    from vmaforensics.scan.places import PlaceKind, kinds_named
    from vmaforensics.scan.rules import compile_rules
    from vmaforensics.scan.scan import Request, scan_image
    from vmaforensics.scan.text import render, summary
    from vmaforensics.scan.worker import Settings
    from vmaforensics.views.gather import gather_views
    from vmaforensics.words.printable import printable

    if not args.yara and not args.strings:
        raise UsageError("there is nothing to look for: give --yara RULES or --strings")
    if args.format == "csv" and not args.yara:
        raise UsageError("--format csv has what rules found: give --yara RULES, or --format json for strings")
    for option in ("timeout", "max_matches"):
        if not 0 < getattr(args, option) < 1 << 20:
            raise UsageError(f"--{option.replace('_', '-')} takes a number from 1 on")
    if args.strings and not 3 <= args.strings <= 4096:
        raise UsageError("--strings takes a length from 3 to 4096")
    try:
        kinds = tuple(PlaceKind) if args.kinds is None else kinds_named(args.kinds)
    except ValueError as error:
        raise UsageError(str(error)) from None
    rules = compile_rules(args.yara) if args.yara else None
    request = Request(
        rules=rules,
        kinds=kinds,
        pids=args.pid,
        jobs=args.jobs or cores(),
        settings=Settings(
            rules=None if rules is None else rules.serialized,
            timeout=args.timeout,
            most_matches=args.max_matches,
            strings=args.strings,
        ),
    )
    with output(args.output, force=args.force) as stream:
        with watched(args) as say:
            image = opened(args, say)
            kernel = find_kernel(image, say)
            views = gather_views(kernel, image.cpus, progress=say)
            part = scan_image(kernel, views, request, say)
        if args.format == "json":
            release = printable(kernel.identity.release)
            document = ScanDocument(schema=ScanSchema(), image=printable(str(image.path)), kernel=release, scan=part)
            stream.write(json_text(document) + b"\n")
        else:
            lines = scan_csv(part) if args.format == "csv" else render(part)
            stream.writelines(line.encode() for line in lines)
            if args.format == "csv":  # which has no room for it
                sys.stderr.writelines(summary(part))
    return ExitCode.FINDINGS if args.fail_on_match and part.findings else ExitCode.OK
