"""``vmaforensics crash``: did this kernel crash, how, and who was it?"""

from __future__ import annotations

import argparse

from vmaforensics.cli.arguments import add_image, opened
from vmaforensics.cli.output import add_output, output
from vmaforensics.errors import ExitCode

_MOST_LINES = 1 << 20


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "crash",
        help="say whether and how the kernel crashed, who it was, and what was going on",
        description="The first page of a crash case: how the kernel ended and how that is known, the CPU and the task, "
        "stacks of CPUs and of tasks that wait, a fingerprint to tell duplicates by, the machine, taint, modules, "
        "complaints of the kernel and the end of its log. Only what the kernel itself wrote into its log is believed: "
        "what a program wrote through /dev/kmsg is shown, marked, and not interpreted. Of a kernel that had not "
        "crashed, what it ran.",
    )
    add_image(parser)
    parser.add_argument(
        "--lines", type=_count, default=25, metavar="N", help="records shown of the end of the log (default: 25)"
    )
    parser.add_argument("--all", action="store_true", help="the stack of every task, those that are alike together")
    parser.add_argument("--format", choices=("text", "json", "html"), default="text", help="default: text")
    add_output(parser)
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    """A number of records."""
    if not text.isascii() or not text.isdigit() or int(text) > _MOST_LINES:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to {_MOST_LINES}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Print the case."""
    import msgspec

    from vmaforensics.cli.progress import watched
    from vmaforensics.crash.build import build_crash_document
    from vmaforensics.crash.gather import follow_complaints, gather_case
    from vmaforensics.crash.text import render_crash
    from vmaforensics.kernel.find import find_kernel

    with output(args.output, force=args.force) as stream:
        with watched(args) as say:
            image = opened(args, say)
            case = follow_complaints(gather_case(image, find_kernel(image, say), say), say)
        document = build_crash_document(case, lines=args.lines, everyone=args.all)
        if args.format == "json":
            stream.write(msgspec.json.encode(document) + b"\n")
        elif args.format == "html":
            from vmaforensics.report.formats.html.crash_page import render_crash_html

            stream.write(render_crash_html(document))
        else:
            stream.write(render_crash(document).encode())
    return ExitCode.OK
