"""The ``vmaforensics`` command: one verb per module; errors become one line and an exit code here."""

from __future__ import annotations

import argparse
import errno
import gc
import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from vmaforensics.cli.output import drop_stdout, require_other
from vmaforensics.errors import ExitCode, VmaForensicsError
from vmaforensics.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType


# In the order of the help; each is a module of this package that bears its name.
VERBS = (
    "report",
    "info",
    "crash",
    "log",
    "what",
    "doctor",
    "maps",
    "smaps",
    "views",
    "pages",
    "extract",
    "core",
    "scan",
    "sql",
    "excerpt",
    "isf",
    "diff",
    "fleet",
    "explain",
    "plugin-dir",
    "completion",
)


def build_parser(verbs: Sequence[str] = VERBS) -> argparse.ArgumentParser:
    """The parser with every verb, or with some: each costs the time to load it."""
    from vmaforensics.cli.arguments import HelpFormatter, add_common
    from vmaforensics.cli.examples import epilog, epilog_of

    parser = argparse.ArgumentParser(
        prog="vmaforensics",
        description="Cross-check every record a Linux kernel keeps of its processes' memory maps, from a memory "
        "image or a kernel-crash dump.",
        epilog=epilog(),
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vmaforensics {__version__}")
    add_common(parser, of_verb=False)
    parsers = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in verbs:
        import_module(f"vmaforensics.cli.{verb.replace('-', '_')}").add_parser(parsers)
        chosen = parsers.choices[verb]
        add_common(chosen, of_verb=True)
        chosen.epilog, chosen.formatter_class = epilog_of(verb), HelpFormatter
    return parser


# A file has its own message, see ``export/whole_file.py``.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _needed(arguments: Sequence[str]) -> Sequence[str]:
    """The verbs that a command line needs the parsers of: its own, or all, to tell what there is."""
    if list(arguments) == ["--version"]:
        return ()
    first = next((argument for argument in arguments if not argument.startswith("-")), None)
    return (first,) if first in VERBS else VERBS


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    if sys.stderr is None:  # closed by whoever started the command, as with 2>&-
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if sys.stdout is None:
        return _fail(ExitCode.OUTPUT, "stdout is closed; send it to /dev/null if it is not wanted")
    arguments = sys.argv[1:] if argv is None else argv
    args = build_parser(_needed(arguments)).parse_args(arguments)
    if args.debug:
        import logging

        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    # One run makes hundreds of thousands of objects, in no cycles, and ends: looking for cycles is time lost.
    looked = gc.isenabled()
    gc.disable()
    try:
        require_other(args)
        if hasattr(args, "first"):
            args.first(args)
        code = _run(args)
        sys.stdout.flush()
        _tell_memory(getattr(args, "memory", None))
    except VmaForensicsError as error:
        return _fail(error.exit_code, str(error))
    except BrokenPipeError:
        drop_stdout()
        return ExitCode.PIPE_CLOSED
    except KeyboardInterrupt:
        return _fail(ExitCode.INTERRUPTED, "interrupted")
    except MemoryError:
        return _fail(ExitCode.INTERNAL, "out of memory")
    except Exception as error:
        if _interrupted(error):
            return _fail(ExitCode.INTERRUPTED, "interrupted")
        if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
            drop_stdout()
            return _fail(ExitCode.OUTPUT, f"cannot write to stdout: {error.strerror}")
        if args.debug:
            raise
        kind = type(error).__name__
        return _fail(ExitCode.INTERNAL, f"internal error ({kind}: {error}); run again with --debug and report it")
    finally:
        if looked:
            gc.enable()
    return code


def _run(args: argparse.Namespace) -> int:
    from vmaforensics.cache import without

    with without(really=args.no_cache):
        return int(args.run(args))


def _tell_memory(limit: object) -> None:
    """Say so if more memory was taken than was asked for; ``limit`` is in bytes if there is one."""
    if not isinstance(limit, int) or sys.platform != "linux":
        return
    from resource import RUSAGE_SELF, getrusage

    from vmaforensics.words.amounts import amount

    taken = getrusage(RUSAGE_SELF).ru_maxrss << 10
    if taken > limit:
        sys.stderr.write(f"vmaforensics: it took {amount(taken)}, more than the {amount(limit)} of --memory\n")


# The interrupts that came. One that comes while a compiled module is loaded can end as an ImportError that knows
# nothing of it: PyCapsule_Import, by which NumPy takes datetime, drops the exception it meets and raises its own.
_interrupts: list[int] = []


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    _interrupts.append(number)
    signal.default_int_handler(number, frame)


def _on_end(number: int, frame: FrameType | None) -> NoReturn:
    """Ends the process as an interrupt does, so that no half file stays."""
    raise SystemExit(128 + number)


def _interrupted(error: BaseException) -> bool:
    """Is an interrupt the cause? While a class is made, Python up to 3.11 raises RuntimeError in its place."""
    if _interrupts:
        return True
    causes = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in causes:
        if isinstance(cause, KeyboardInterrupt):
            return True
        causes.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return False


def _fail(code: ExitCode, text: str) -> int:
    from vmaforensics.words.printable import printable

    sys.stderr.write(f"vmaforensics: {printable(text)}\n")
    return code


def run() -> None:
    """Entry point of ``python -m vmaforensics`` and of the command."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not for a job that is to ignore it
        signal.signal(signal.SIGINT, _on_interrupt)
    for number in (signal.SIGHUP, signal.SIGTERM) if hasattr(signal, "SIGHUP") else (signal.SIGTERM,):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has the first ignored
            signal.signal(number, _on_end)
    try:
        code = main()
    except KeyboardInterrupt:  # it came while the command line was read
        code = _fail(ExitCode.INTERRUPTED, "interrupted")
    if code == ExitCode.INTERRUPTED:
        # Python ends with the signal if it came while a string was executed, as importing dataclasses does, though it
        # has been taken care of since (unhandled_keyboard_interrupt of CPython's pythonrun.c, never reset).
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
