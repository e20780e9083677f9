"""``vmaforensics diff``: what came, went or changed between two images of one machine."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

from vmaforensics.checks.finding import Severity
from vmaforensics.cli.arguments import add_acquired, add_limits, add_symbols, limits_of
from vmaforensics.cli.output import add_output, output
from vmaforensics.errors import ExitCode

if TYPE_CHECKING:
    import argparse

    from vmaforensics.progress import Progress
    from vmaforensics.report.document.diff import Difference
    from vmaforensics.report.document.document import Document

_DESCRIPTION = (
    "Compare two images of one machine, taken without a reboot between them, or two reports saved with --format json: "
    "processes, regions and findings that came, went or changed. Images of different boots are refused, for their "
    "kernel addresses mean different things."
)


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "diff", help="what came, went or changed between two images of one machine", description=_DESCRIPTION
    )
    parser.add_argument("before", metavar="A", type=Path, help="the earlier image, or its saved report")
    parser.add_argument("after", metavar="B", type=Path, help="the later one")
    add_symbols(parser)
    add_acquired(parser)
    add_limits(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    parser.add_argument(
        "--fail-on",
        choices=[severity.value for severity in Severity],
        metavar="SEVERITY",
        help="exit with 1 if a finding that is new, has become worse, or was torn in each is at least this severe",
    )
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read or analyse both, compare, write."""
    from vmaforensics.cli.progress import watched
    from vmaforensics.cli.style import text_style
    from vmaforensics.report.document.diff import compare
    from vmaforensics.report.document.json_text import json_text
    from vmaforensics.report.formats.diff_text import render_diff

    with output(args.output, force=args.force) as stream:
        with watched(args) as progress:
            before = _document(args.before, args, progress)
            gc.collect()  # what the first analysis held, before the second begins
            found = compare(before, _document(args.after, args, progress))
        if args.format == "json":
            stream.write(json_text(found) + b"\n")
        else:
            stream.write(render_diff(found, **text_style(args)._asdict()).encode())
    return ExitCode.FINDINGS if args.fail_on and _worse(found, Severity(args.fail_on)) else ExitCode.OK


def _document(path: Path, args: argparse.Namespace, progress: Progress) -> Document:
    """What the options say of images goes for each that is one."""
    from vmaforensics.cli.documents import document_of
    from vmaforensics.report.document.saved import is_saved

    if is_saved(path):
        return document_of([path], progress=progress)
    return document_of([path], symbols=args.symbols, acquired=args.acquired, limits=limits_of(args), progress=progress)


def _worse(found: Difference, limit: Severity) -> bool:
    """Is there a finding of that severity which was not there, or was less severe, or one that only both show?"""
    if any(row.torn and Severity(row.severity).rank <= limit.rank for row in found.persisting):
        return True
    for finding in found.findings:
        if finding.how == "went" or Severity(finding.finding.severity).rank > limit.rank:
            continue
        was = [change.before for change in finding.changes if change.fact == "severity"]
        if finding.how == "came" or (was and Severity(was[0]).rank > Severity(finding.finding.severity).rank):
            return True
    return False
