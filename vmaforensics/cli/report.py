"""``vmaforensics report``: the cross-check, in any format; or a saved report in another one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vmaforensics.checks.finding import Severity
from vmaforensics.cli.arguments import add_acquired, add_image, limits_of, look
from vmaforensics.cli.output import add_output, output
from vmaforensics.errors import ExitCode, UsageError
from vmaforensics.report.formats.render import FORMATS, require

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from vmaforensics.progress import Progress
    from vmaforensics.report.document.document import Document
    from vmaforensics.views.views import Views

_SEVERITIES = [severity.value for severity in Severity]


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "report",
        help="cross-check every record of the memory maps and report",
        description="Cross-check every record of the memory maps and report. Instead of an image, a report saved with "
        "--format json is rendered again, with the same bytes as from the image.",
    )
    add_image(parser)
    described = "; ".join(f"{form.name}: {form.description}" for form in FORMATS.values())
    parser.add_argument(
        "--format", choices=tuple(FORMATS), default="text", metavar="FORMAT", help=f"default: text. {described}"
    )
    parser.add_argument(
        "--table",
        choices=FORMATS["csv"].tables,
        metavar="TABLE",
        help="which table csv and parquet hold: findings, evidence, regions, processes or matches (of --yara); "
        "default: findings for csv, regions for parquet",
    )
    parser.add_argument("--pid", type=int, action="append", metavar="N", help="only this process; may be repeated")
    parser.add_argument("--views", metavar="NAME,…", help="only these views in addition to indices and counters")
    parser.add_argument("--rules", metavar="ID,…", help="only findings of these rules; default: all")
    parser.add_argument(
        "--min-severity", choices=_SEVERITIES, metavar="SEVERITY", help="only findings at least this severe"
    )
    parser.add_argument(
        "--yara",
        metavar="RULES",
        type=Path,
        action="append",
        default=[],
        help="scan memory with these YARA rules too, a file or a folder; see the verb scan; may be repeated",
    )
    parser.add_argument(
        "--vmlinux",
        metavar="FILE",
        type=Path,
        help="what the image's kernel was booted from, vmlinux or vmlinuz of that very build: every byte of the "
        "kernel's code is compared with it",
    )
    add_acquired(parser)
    parser.add_argument("--sha256", action="store_true", help="hash the image file (reads all of it)")
    parser.add_argument(
        "--reproducible",
        action="store_true",
        help="leave out the path and the versions of Python and libraries, which differ between machines",
    )
    parser.add_argument(
        "--fail-on", choices=_SEVERITIES, metavar="SEVERITY", help="exit with 1 if a finding is at least this severe"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 13 if anything could not be assessed")
    add_output(parser)
    parser.set_defaults(run=run, first=_first)


def _first(args: argparse.Namespace) -> None:
    """What is said before a reader is loaded."""
    _require_fitting(args)
    look(args)


def run(args: argparse.Namespace) -> int:
    """Analyse or read, choose, render, write."""
    from vmaforensics.cli.progress import watched

    with output(args.output, force=args.force) as stream:
        with watched(args) as progress:
            whole = _document(args, progress)
            document = _chosen_of(whole, args)
            progress("rendering")
            # The first piece is made here: until then the format may refuse the document.
            pieces = _rendered(document, args)
            first = next(pieces)
        stream.write(first)
        stream.writelines(pieces)
    if args.fail_on and any(
        Severity(finding.severity).rank <= Severity(args.fail_on).rank for finding in document.findings
    ):
        return ExitCode.FINDINGS
    if (args.strict and whole.not_assessed) or not any(process.seen for process in whole.processes):
        return ExitCode.INCOMPLETE
    return ExitCode.OK


def _require_fitting(args: argparse.Namespace) -> None:
    """Refuse at once what would only be refused after the analysis."""
    form = FORMATS[args.format]
    if args.table and not form.tables:
        holding = ", ".join(form.name for form in FORMATS.values() if form.tables)
        raise UsageError(f"--table goes with the formats {holding}, not with {args.format}")
    if form.binary and args.output is None and sys.stdout.isatty():
        raise UsageError(f"{args.format} is binary and is not written to a terminal; give -o FILE{form.suffix}")
    require(form)


def _document(args: argparse.Namespace, progress: Progress) -> Document:
    from vmaforensics.cli.documents import document_of
    from vmaforensics.views.gather import EXTRA

    views = None if args.views is None else _chosen(args.views, EXTRA, "view")
    return document_of(
        args.image,
        views=views,
        acquired=args.acquired,
        sha256=args.sha256,
        symbols=args.symbols,
        vmlinux=args.vmlinux,
        kernel=args.kernel,
        limits=limits_of(args),
        pids=args.pid,
        rules=args.yara,
        progress=progress,
    )


def _chosen_of(document: Document, args: argparse.Namespace) -> Document:
    from vmaforensics.checks.registry import all_rules
    from vmaforensics.report.document.selection import reproducible, select

    rules = None if args.rules is None else _chosen(args.rules, [rule.id for rule in all_rules()], "rule")
    document = select(document, pids=args.pid, rules=rules, min_severity=args.min_severity)
    return reproducible(document) if args.reproducible else document


def _rendered(document: Document, args: argparse.Namespace) -> Iterator[bytes]:
    from vmaforensics.cli.style import text_style
    from vmaforensics.report.formats.render import rendered_pieces

    options = {**text_style(args)._asdict(), "all_regions": bool(args.pid)}
    if args.table:
        options["table"] = args.table
    return rendered_pieces(document, args.format, options)


def _chosen(text: str, known: Sequence[str], noun: str) -> Sequence[str]:
    """The names of a comma-separated option."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise UsageError(f"there is no {noun} {name}; known are {', '.join(known)}")
    return names


def require_pids(views: Views, pids: list[int]) -> None:
    """Raise :class:`UsageError` for a pid that no process of the image has."""
    known = set(views.tasks.tgid.tolist())
    for pid in pids:
        if pid not in known:
            raise UsageError(f"no process of the image has pid {pid}; `vmaforensics report IMAGE -v` lists them")
