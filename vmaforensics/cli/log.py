"""``vmaforensics log``: the kernel's log, as dmesg prints it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from vmaforensics.cli.arguments import add_image, opened
from vmaforensics.cli.output import add_output, output
from vmaforensics.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64
    from vmaforensics.views.log.records import Log

_LEVELS = ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug")
_AT_ONCE = 4096  # records that are made text before they are written


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "log",
        help="print the kernel's log, as dmesg does",
        description="Print the records of the kernel's log, the oldest first. A record that a program wrote through "
        "/dev/kmsg is marked with its facility, as in (/dev/kmsg user), however much it looks like the kernel's; "
        "one that was still being written is marked as unfinished.",
    )
    add_image(parser)
    parser.add_argument(
        "--level",
        type=_level,
        metavar="L",
        default=7,
        help="only records as urgent as this or more: emerg, alert, crit, err, warn, notice, info, debug, or 0 to 7",
    )
    parser.add_argument(
        "--since", type=_seconds, metavar="T", default=0, help="only records from T seconds since boot on, as 12.5"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    add_output(parser)
    parser.set_defaults(run=run)


def _level(text: str) -> int:
    """A level by name or number."""
    if text in _LEVELS:
        return _LEVELS.index(text)
    if text in ("0", "1", "2", "3", "4", "5", "6", "7"):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(_LEVELS)}, nor 0 to 7")


def _seconds(text: str) -> int:
    """Seconds, perhaps with a fraction, in nanoseconds."""
    from decimal import Decimal, InvalidOperation

    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal(-1)
    if not value.is_finite() or not 0 <= value < 1 << 33:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return int(value * 10**9)


def run(args: argparse.Namespace) -> int:
    """Print the records asked for."""
    import msgspec

    from vmaforensics.cli.progress import watched
    from vmaforensics.kernel.find import find_kernel
    from vmaforensics.proc.log import log_lines
    from vmaforensics.proc.log_document import log_document, log_record
    from vmaforensics.views.log.log import read_log
    from vmaforensics.words.printable import printable

    with output(args.output, force=args.force) as stream:
        with watched(args) as say:
            kernel = find_kernel(opened(args), say)
            log = read_log(kernel)
        if log is None:
            raise UsageError(
                "the kernel's log cannot be read: its variables (prb, log_buf) are unknown, or what they lead to is "
                "not in the image"
            )
        rows = _chosen(log, args.level, args.since).tolist()
        if args.format == "json":
            stream.write(msgspec.json.encode(log_document(log, rows)) + b"\n")
        else:
            for at in range(0, len(rows), _AT_ONCE):
                stream.write("".join(log_lines(log_record(log, row)) for row in rows[at : at + _AT_ONCE]).encode())
            for problem in log.problems:
                sys.stderr.write(f"vmaforensics: {printable(problem)}\n")
    return ExitCode.OK


def _chosen(log: Log, level: int, since: int) -> I64:
    """Rows of the records as urgent as ``level`` from ``since`` nanoseconds on; those without a time among them."""
    import numpy as np

    from vmaforensics.views.log.records import RecordState

    records = log.records
    late = (records.time >= np.uint64(since)) | (records.state == RecordState.BUFFERED)
    return np.flatnonzero((records.level <= level) & late).astype(np.int64)
