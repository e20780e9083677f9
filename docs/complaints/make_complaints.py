"""Writes the page of the kernel's complaints, docs/complaints/README.md, to stdout; `make complaints` keeps it.

It is made of vmaforensics/crash/meanings.py and of the sentences that `crash` has for each kind.
"""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING

from vmaforensics.crash.death import HOW
from vmaforensics.crash.meanings import MEANINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

_WIDTH = 120

_INTRODUCTION = """\
# What the kernel complains of

Made by `make complaints` from `vmaforensics/crash/meanings.py`; do not edit it by hand. `vmaforensics crash` shows
these paragraphs beneath a complaint; the name of a kind is what its JSON form has. How a complaint is followed to the
word that is broken, [crash.md](../crash.md) says.
"""


def page() -> str:
    """The whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _INTRODUCTION.rstrip("\n")
    for kind, meaning in MEANINGS.items():
        yield from ("", f"## {kind.value}", "")
        if kind in HOW:
            yield from (f"*{HOW[kind][:1].upper()}{HOW[kind][1:]}.*", "")
        yield from textwrap.wrap(meaning.says, _WIDTH, break_on_hyphens=False, break_long_words=False)
        yield ""
        look = f"**Look at:** {meaning.look[:1].lower()}{meaning.look[1:]}"
        yield from textwrap.wrap(look, _WIDTH, break_on_hyphens=False, break_long_words=False)
        yield from ("", f"Source: `{meaning.source}`")


if __name__ == "__main__":
    sys.stdout.write(page())
