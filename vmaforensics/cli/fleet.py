"""``vmaforensics fleet``: many images at once, as a dataset and a page over all machines."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vmaforensics.cli.arguments import size
from vmaforensics.errors import ExitCode, UsageError
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.fleet.run import Summary

_DESCRIPTION = """\
Analyse many images, one task each on a Dask cluster, and write into a folder

  tables/      a Parquet file per table and image: images, kernels, modules, hooks, processes, vmas, findings,
               executables, code, crashes, gaps; DuckDB, polars and pandas read each table as one
  views.sql    questions over them for DuckDB: what is rare, what changed, the same crash, the same indicator
  reports/     the HTML report of every machine
  index.html   machines with what stands out on each, what few machines have or lack, what could not be read

An image is a file, a pattern, a folder (files that begin or are called as an image does), or a URL that fsspec
knows, as s3://bucket/*.lime. What cannot be analysed has a row that says why.
"""
_NAMED = 10  # machines


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "fleet",
        help="analyse many images: one dataset, and one page over all machines",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", metavar="PATH", nargs="*", help="files, patterns, folders or URLs of images")
    parser.add_argument(
        "--list",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="a file with a location a line, then optionally a tab and the role of the machine; may be repeated",
    )
    parser.add_argument(
        "--role", metavar="NAME", default="", help="what kind of machines these are, where no list says"
    )
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="the folder of the dataset")
    parser.add_argument(
        "--resume", action="store_true", help="go on with what DIR holds; images that are done are not read"
    )
    parser.add_argument(
        "--baseline",
        metavar="DIR",
        type=Path,
        help="another fleet's dataset: the page says what machines have beyond it",
    )
    parser.add_argument(
        "--workers", metavar="N", type=int, help="processes of the local cluster; default: as many as CPUs"
    )
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        type=size,
        help="of each worker of the local cluster, such as 4G; default: an equal share of all",
    )
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="of a Dask cluster, as tcp://host:8786; default: a local one"
    )
    parser.add_argument("--no-reports", action="store_true", help="write no report per machine")
    parser.add_argument("--sha256", action="store_true", help="hash the image files (reads all of them)")
    parser.add_argument(
        "--symbols", metavar="FILE", type=Path, action="append", help="for images without their own; as of report"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Analyse what is not done, then make the page."""
    from vmaforensics.cli.progress import watched
    from vmaforensics.fleet.dataset import open_dataset, require_dataset, write_text
    from vmaforensics.fleet.page import render_page
    from vmaforensics.fleet.queries import view_statements
    from vmaforensics.fleet.run import require_dask, run_fleet
    from vmaforensics.fleet.sources import find_sources
    from vmaforensics.fleet.task import Options
    from vmaforensics.words.printable import printable

    require_dask()
    if args.workers is not None and args.workers < 1:
        raise UsageError(f"--workers {args.workers} is no number of processes")
    if args.baseline is not None:
        require_dataset(args.baseline)
    found = find_sources(args.images, args.list, args.role, args.output)
    open_dataset(args.output, resume=args.resume)
    options = Options(
        folder=str(args.output.absolute()),
        reports=not args.no_reports,
        sha256=args.sha256,
        symbols=tuple(str(path.absolute()) for path in args.symbols or ()),
    )
    with watched(args) as progress:
        summary = run_fleet(
            found.sources,
            options,
            args.output,
            workers=args.workers,
            memory=args.memory,
            scheduler=args.scheduler,
            progress=progress,
        )
    write_text(args.output, "views.sql", view_statements())
    write_text(args.output, "index.html", render_page(args.output, args.baseline))
    for line in _told(summary, found.passed_over):
        sys.stdout.write(f"{printable(line)}\n")
    sys.stdout.write(f"{printable(str(args.output / 'index.html'))}\n")
    return ExitCode.OK


def _told(summary: Summary, passed_over: int) -> Iterator[str]:
    yield (
        f"{counted(summary.analysed, 'image')} analysed, {summary.failed} failed, {summary.killed} killed their workers"
        f", {summary.before} done before"
    )
    if passed_over:
        yield f"{counted(passed_over, 'file')} of the folders passed over: no header of an image, no name of one"
    serious = sorted(
        (told for told in summary.told if told.worst in ("critical", "high", "medium")),
        key=lambda told: (("critical", "high", "medium").index(told.worst), told.location),
    )
    for told in serious[:_NAMED]:
        yield f"{told.worst:8}  {told.location}"
    if len(serious) > _NAMED:
        yield f"and {len(serious) - _NAMED} more with findings of weight"
