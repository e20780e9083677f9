"""``vmaforensics log``: the kernel's log, as dmesg prints it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from vmaforensics.cli.arguments import add_image, opened
from vmaforensics.cli.output import add_output, output
from vmaforensics.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO

    from vmaforensics.columns.types import I64
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.log.earlier import EarlierLog
    from vmaforensics.views.log.records import Log

_LEVELS = ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug")
_MOST_NAMED = 5  # earlier logs
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
    parser.add_argument(
        "--earlier",
        action="store_true",
        help="instead, the logs of earlier kernels that ramoops has kept in memory over a reboot",
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
    from vmaforensics.cli.progress import watched
    from vmaforensics.kernel.find import find_kernel
    from vmaforensics.views.log.earlier import read_earlier
    from vmaforensics.views.log.log import read_log

    with output(args.output, force=args.force) as stream:
        with watched(args) as say:
            kernel = find_kernel(opened(args, say), say)
            log = read_log(kernel)
            earlier = read_earlier(kernel)
        if log is None and not args.earlier:
            raise UsageError(
                "the kernel's log cannot be read: its variables (prb, log_buf) are unknown, or what they lead to is "
                "not in the image"
            )
        logs = [] if args.earlier or log is None else [log]
        if args.format == "json":
            stream.write(_json(args, logs, earlier))
        elif args.earlier:
            _write_earlier(stream, args, earlier)
        else:
            _write(stream, args, logs[0])
            _say_others(kernel, earlier)
    return ExitCode.OK


def _json(args: argparse.Namespace, logs: Sequence[Log], earlier: Sequence[EarlierLog]) -> bytes:
    """The document: of the kernel's own log, or of those of earlier ones, which it names in either case."""
    import msgspec

    from vmaforensics.proc.log_document import earlier_part, log_document
    from vmaforensics.views.log.records import Log, LogRecords

    log = logs[0] if logs else Log(records=LogRecords.zeros(0), data=b"", source="ramoops")
    parts = [earlier_part(kept, _chosen(kept.log, args).tolist() if args.earlier else ()) for kept in earlier]
    return msgspec.json.encode(log_document(log, _chosen(log, args).tolist(), parts)) + b"\n"


def _write_earlier(stream: IO[bytes], args: argparse.Namespace, earlier: Sequence[EarlierLog]) -> None:
    """The logs of earlier kernels, each beneath a line that says which it is."""
    from vmaforensics.proc.log import earlier_line
    from vmaforensics.proc.log_document import earlier_part

    if not earlier:
        sys.stderr.write("vmaforensics: memory has no log of an earlier kernel that ramoops would have kept\n")
    for kept in earlier:
        stream.write(earlier_line(earlier_part(kept, ())).encode())
        _write(stream, args, kept.log)


def _write(stream: IO[bytes], args: argparse.Namespace, log: Log) -> None:
    """The records asked for, as text; then what is wrong with them."""
    from vmaforensics.proc.log import log_lines
    from vmaforensics.proc.log_document import log_record
    from vmaforensics.words.printable import printable

    rows = _chosen(log, args).tolist()
    for at in range(0, len(rows), _AT_ONCE):
        stream.write("".join(log_lines(log_record(log, row)) for row in rows[at : at + _AT_ONCE]).encode())
    for problem in log.problems:
        sys.stderr.write(f"vmaforensics: {printable(problem)}\n")


def _say_others(kernel: Kernel, earlier: Sequence[EarlierLog]) -> None:
    """That there are logs of other kernels."""
    from vmaforensics.kernel.several import ANOTHER
    from vmaforensics.words.amounts import counted
    from vmaforensics.words.printable import printable

    if earlier:
        named = ", ".join(kept.title for kept in earlier[:_MOST_NAMED])
        told = counted(len(earlier), "log")
        sys.stderr.write(f"vmaforensics: memory has {told} of earlier kernels ({named}); --earlier shows them\n")
    for problem in kernel.identity.problems:
        if problem.startswith(ANOTHER):
            sys.stderr.write(f"vmaforensics: {printable(problem)}\n")


def _chosen(log: Log, args: argparse.Namespace) -> I64:
    """Rows of the records that are as urgent and as late as was asked for; those without a time among them."""
    import numpy as np

    from vmaforensics.views.log.records import RecordState

    records = log.records
    late = (records.time >= np.uint64(args.since)) | (records.state == RecordState.BUFFERED)
    return np.flatnonzero((records.level <= args.level) & late).astype(np.int64)
