"""How text is to look: how much of it, in colour or not, how wide."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import argparse


class TextStyle(NamedTuple):
    """What ``render_text`` is given."""

    detail: int  # -1 (-q) to 2 (-vv)
    color: bool
    width: int | None  # columns of the terminal; None: no terminal reads it


def text_style(args: argparse.Namespace) -> TextStyle:
    """The style for what goes to stdout, or to the file that ``-o`` names."""
    to_file = getattr(args, "output", None) is not None
    terminal = not to_file and sys.stdout.isatty()
    return TextStyle(
        detail=-1 if args.quiet else min(args.verbose, 2),
        color=_color(args.color, terminal=terminal, to_file=to_file),
        width=shutil.get_terminal_size((100, 24)).columns if terminal else None,
    )


def _color(asked: str, *, terminal: bool, to_file: bool) -> bool:
    """The option counts most, then NO_COLOR (no-color.org), then FORCE_COLOR, then whether a terminal reads it."""
    if asked != "auto":
        return asked == "always"
    if os.environ.get("NO_COLOR") or to_file:
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (terminal and os.environ.get("TERM") != "dumb")
