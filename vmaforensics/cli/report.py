"""``vmaforensics report``: the cross-check, as text or JSON."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vmaforensics.checks.finding import Severity
from vmaforensics.cli.output import add_output, output
from vmaforensics.errors import ExitCode, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from vmaforensics.views.tables import Views


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser("report", help="cross-check every record of the memory maps and report")
    parser.add_argument("image", metavar="IMAGE", help="raw, ELF core, LiME or kdump-compressed image")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    parser.add_argument("--pid", type=int, action="append", metavar="N", help="only this process; may be repeated")
    parser.add_argument("--views", metavar="NAME,…", help="only these views besides indices and counters")
    parser.add_argument("--rules", metavar="ID,…", help="only findings of these rules; default: all")
    parser.add_argument("--sha256", action="store_true", help="hash the image file (reads all of it)")
    parser.add_argument(
        "--fail-on", choices=[one.value for one in Severity], metavar="SEVERITY",
        help="exit with 1 if a finding is at least this severe",
    )  # fmt: skip
    parser.add_argument("--strict", action="store_true", help="exit with 13 if anything could not be assessed")
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Analyse, render, write."""
    from vmaforensics.analysis import analyse_image
    from vmaforensics.checks.rules import RULES
    from vmaforensics.report.build import build_document
    from vmaforensics.report.document import encode
    from vmaforensics.report.text import render_text
    from vmaforensics.views.gather import EXTRA

    with output(args.output, force=args.force) as stream:
        analysis = analyse_image(args.image, views=_chosen(args.views, EXTRA, "view"))
        if args.rules:
            rules = _chosen(args.rules, [rule.id for rule in RULES], "rule")
            analysis = replace(analysis, findings=[one for one in analysis.findings if one.rule.id in rules])
        if args.pid:
            require_pids(analysis.views, args.pid)
        document = build_document(analysis, pids=args.pid, sha256=args.sha256)
        if args.format == "json":
            stream.write(encode(document))
        else:
            stream.write(render_text(document, all_regions=bool(args.pid)).encode())
    if args.fail_on and any(Severity(one.severity).rank <= Severity(args.fail_on).rank for one in document.findings):
        return ExitCode.FINDINGS
    if args.strict and document.not_assessed:
        return ExitCode.INCOMPLETE
    return ExitCode.OK


def _chosen(text: str | None, known: Sequence[str], noun: str) -> Sequence[str]:
    """The names of a comma-separated option; all where it is not given."""
    if text is None:
        return known
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise UsageError(f"there is no {noun} {name}; known are {', '.join(known)}")
    return names


def require_pids(views: Views, pids: list[int]) -> None:
    """Raise :class:`UsageError` for a pid that no process of the image has."""
    known = set(views.tasks["tgid"].tolist())
    for pid in pids:
        if pid not in known:
            raise UsageError(f"no process of the image has pid {pid}; `vmaforensics report IMAGE` lists them")
