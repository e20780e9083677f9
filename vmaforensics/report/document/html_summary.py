"""Pieces of HTML for notebooks, inert whatever the image holds."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable


def escaped(text: str) -> str:
    """``text`` printable, and without markup."""
    return html.escape(printable(text))


def table_row(tag: str, texts: Iterable[str]) -> str:
    """A row of a table whose cells are ``tag``: ``th`` or ``td``."""
    return "<tr>" + "".join(f"<{tag}>{escaped(text)}</{tag}>" for text in texts) + "</tr>"
