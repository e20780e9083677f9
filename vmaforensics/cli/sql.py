"""``vmaforensics sql``: SQL over the tables of an image, of a saved report, or of a folder of them."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from vmaforensics.cli.arguments import add_one_image, opened
from vmaforensics.cli.output import add_output, output
from vmaforensics.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.progress import Progress
    from vmaforensics.query.sources import Source

_DESCRIPTION = """\
Ask in SQL (DuckDB). IMAGE may be a report saved with --format json too, or a folder of them; the column `image` says
whose row it is. Tables are read when the statement names them:

  processes  threads  vmas  files  findings  evidence
  ptes  modules       of an image only; ptes has a row for every page-table entry

.tables and .schema [TABLE] in place of a statement tell what there is; - reads it from stdin. A statement reads no
file and writes none. Unsigned numbers of 64 bits (UBIGINT) are addresses, and shown in hexadecimal.
The column "end" wants its quotes: it is a word of SQL.
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "sql",
        help="ask in SQL: processes, VMAs, page-table entries, findings, files, threads, modules",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_one_image(parser)
    parser.add_argument("statement", metavar="STATEMENT", help="SQL, .tables, .schema [TABLE], or - for stdin")
    parser.add_argument("--format", choices=("text", "csv", "json", "parquet"), default="text", help="default: text")
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run one statement, write what it gives."""
    from vmaforensics.cli.progress import watched
    from vmaforensics.query.engine import Engine
    from vmaforensics.query.output import as_csv, as_json, as_text
    from vmaforensics.query.schema import told

    statement = sys.stdin.read() if args.statement == "-" else args.statement
    if not statement.strip():
        raise UsageError("the statement is empty")
    if args.format == "parquet" and args.output is None and sys.stdout.isatty():
        raise UsageError("parquet is binary and is not written to a terminal; give -o FILE.parquet")
    with output(args.output, force=args.force) as stream:
        with watched(args) as say:
            source = _source(args, say)
            if statement.lstrip().startswith("."):
                stream.writelines(line.encode() for line in told(statement.strip(), source.names))
                return ExitCode.OK
            engine = Engine(source)
            if args.format == "parquet":
                stream.write(engine.parquet(statement))
                return ExitCode.OK
            result = engine.run(statement)
        shown = {"text": as_text, "csv": as_csv, "json": as_json}[args.format]
        stream.writelines(piece.encode() for piece in shown(result))
    return ExitCode.OK


def _source(args: argparse.Namespace, say: Progress) -> Source:
    """What is asked: an image, a document, a folder of documents."""
    from vmaforensics.query.sources import DocumentsSource, ImageSource, documents_in
    from vmaforensics.report.document.saved import is_saved

    (path,) = args.image
    paths: list[Path] = []
    if not args.parts:
        paths = documents_in(path) if path.is_dir() else [path] if is_saved(path) else []
    if paths and (args.symbols or args.kernel):
        raise UsageError(f"--symbols and --kernel need the image, and {path} is not one")
    return DocumentsSource(paths) if paths else ImageSource(opened(args, say), say)
