"""Where results go: stdout, or a file that appears whole or not at all."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vmaforensics.errors import OutputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator


def add_output(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """The options -o and --force."""
    parser.add_argument("-o", "--output", metavar="FILE", required=required, help="write to FILE, not to stdout")
    parser.add_argument("--force", action="store_true", help="overwrite FILE if it exists")


@contextmanager
def output(path: str | None, *, force: bool = False) -> Iterator[IO[bytes]]:
    """A binary stream: stdout, or a temporary file beside ``path`` that takes its place at the end.

    Raises :class:`OutputError` if the file exists and ``force`` is not given, and where ``whole_file`` does.
    """
    if path is None:
        yield sys.stdout.buffer
        return
    from vmaforensics.export.whole_file import occupied, whole_file

    target = Path(path)
    if occupied(target) and not force:
        raise OutputError(f"{target} exists already; choose another name or give --force")
    with whole_file(target) as stream:
        yield stream


def drop_stdout() -> None:
    """What is still to be flushed when the interpreter ends goes nowhere: writing it has failed already."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def require_other(args: argparse.Namespace) -> None:
    """Raise :class:`OutputError` where the output is a file that the command reads: --force is not for evidence."""
    target = getattr(args, "output", None)
    if target is None or not Path(target).exists():
        return
    for value in vars(args).values():
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path) and path is not target and path.is_file() and path.samefile(target):
                raise OutputError(f"{target} is what the command reads and is not overwritten; choose another name")
