"""The ``vmaforensics`` command: one verb per module; errors become one line and an exit code here."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
from typing import TYPE_CHECKING

from vmaforensics import __version__
from vmaforensics.errors import ExitCode, VmaForensicsError

if TYPE_CHECKING:
    from collections.abc import Sequence

_EPILOG = """\
examples:
  vmaforensics report vmcore                       cross-check every process
  vmaforensics report vmcore --format json -o r.json
  vmaforensics info memory.lime                    what is this image, and which kernel?
  vmaforensics maps vmcore --pid 1234              /proc/1234/maps, byte for byte
  vmaforensics smaps vmcore --pid 1234             /proc/1234/smaps
  vmaforensics pages vmcore --pid 1234 --at 7f3c...  page-table entries, with page, owner and area
  vmaforensics extract vmcore --pid 1234 --at 7f3c... -o DIR  the bytes of a region, and what is missing
  vmaforensics views vmcore --pid 1234 --at 7f3c...  every record of a region, with addresses
  vmaforensics explain VMA-MISSING                 what a rule compares, and how to check it by hand
  vmaforensics excerpt vmcore -o small.kdump       just the pages the analysis reads, to share

exit codes:
  0    the analysis was completed, with findings or without
  1    findings at or above the severity given with --fail-on
  2    wrong usage: an unknown option, a pid that does not exist
  10   the image is missing or cannot be read
  11   the file is not an image of a supported format
  12   no Linux kernel, or no symbols or types for it, in the image
  13   completed, but something could not be assessed and --strict was given
  14   the output exists already or cannot be written
  20   a saved document is invalid or of a newer schema
  70   internal error: a bug, please report it
  130  interrupted        141  the reader of the output went away
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser with every verb."""
    from vmaforensics.cli import excerpt, explain, extract, info, maps, pages, report, smaps, views

    parser = argparse.ArgumentParser(
        prog="vmaforensics",
        description="Cross-check every record a Linux kernel keeps of its processes' memory maps, from a memory "
        "image or a kernel-crash dump.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vmaforensics {__version__}")
    parser.add_argument("-d", "--debug", action="store_true", help="log to stderr; full traceback on a bug")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for module in (report, info, maps, smaps, pages, extract, views, explain, excerpt):
        module.add_parser(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.DEBUG if args.debug else logging.WARNING, stream=sys.stderr)
    # One run makes hundreds of thousands of objects, in no cycles, and ends: looking for cycles is time lost.
    gc.disable()
    try:
        code = int(args.run(args))
        sys.stdout.flush()
    except VmaForensicsError as error:
        return _fail(error.exit_code, str(error))
    except BrokenPipeError:
        # The interpreter flushes stdout once more when it ends; give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.PIPE_CLOSED
    except KeyboardInterrupt:
        return _fail(ExitCode.INTERRUPTED, "interrupted")
    except MemoryError:
        return _fail(ExitCode.INTERNAL, "out of memory")
    except Exception as error:
        if args.debug:
            raise
        kind = type(error).__name__
        return _fail(ExitCode.INTERNAL, f"internal error ({kind}: {error}); run again with --debug and report it")
    return code


def _fail(code: ExitCode, text: str) -> int:
    from vmaforensics.report.printable import printable

    sys.stderr.write(f"vmaforensics: {printable(text)}\n")
    return code


def run() -> None:
    """Entry point of ``python -m vmaforensics``."""
    sys.exit(main())
