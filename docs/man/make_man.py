"""Writes the manual page to stdout, from the parser of the command itself; `make man` keeps it.

It is made of what the parser knows, not of the help it prints: that differs between releases of Python.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from typing import TYPE_CHECKING

from vmaforensics.cli.examples import ENVIRONMENT, EXAMPLES, EXIT_CODES
from vmaforensics.cli.main import build_parser
from vmaforensics.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

_DATE = "2026-11-23"  # of the release; mandoc wants one
_COMMON = "options of every verb"

_DESCRIPTION = """\
vmaforensics reads a Linux memory image or kernel-crash dump, lays every record that the kernel keeps of each process's
memory map side by side, and says where they disagree, how sure it is, and what innocent causes there are.
Symbols and types come out of the image itself: no debug package, no symbol file, no network.
"""

_STREAMS = """\
Results go to standard output, or with -o to a file that appears whole or not at all; an existing file is replaced
with --force only.
Messages and progress go to standard error.
Everything that comes from the image is made printable, except by maps and smaps, whose point is to print what the
kernel prints.
"""

_FILES = (
    ("$XDG_CACHE_HOME/vmaforensics/isf", "symbol files made for volatility3, by build id; may be deleted at any time"),
    ("$XDG_CACHE_HOME/vmaforensics/found", "what earlier runs found; may be deleted at any time"),
)


def main() -> None:
    """Write the page."""
    sys.stdout.write("\n".join(_page()) + "\n")


def _page() -> Iterator[str]:
    parser = build_parser()
    (verbs,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    yield '.\\" Made by docs/man/make_man.py; `make man` makes it anew.'
    yield f'.TH VMAFORENSICS 1 "{_DATE}" "vmaforensics {__version__}" "User Commands"'
    yield ".SH NAME"
    yield "vmaforensics \\- cross\\-check the records of memory maps in a Linux memory image"
    yield ".SH SYNOPSIS"
    yield "\\fBvmaforensics\\fR [\\fIOPTION\\fR ...] \\fIVERB\\fR [\\fIOPTION\\fR ...] [\\fIIMAGE\\fR ...]"
    yield ".SH DESCRIPTION"
    yield from _filled(_DESCRIPTION)
    yield ".PP"
    yield from _filled(_STREAMS)
    yield ".SH VERBS"
    helps = {choice.dest: choice.help or "" for choice in verbs._choices_actions}
    for name, verb in verbs.choices.items():
        yield from _verb(name, verb, helps[name])
    yield ".SH OPTIONS"
    yield "These stand before the verb or after it."
    for group in parser._action_groups:
        if group.title in ("options", _COMMON):
            yield from _actions(group._group_actions)
    yield ".SH EXIT STATUS"
    for code, text in EXIT_CODES:
        yield from _item(f"\\fB{code}\\fR", text)
    yield ".SH ENVIRONMENT"
    for name, text in ENVIRONMENT:
        yield from _item(f"\\fB{name}\\fR", text)
    yield ".SH FILES"
    for name, text in _FILES:
        yield from _item(f"\\fI{_plain(name)}\\fR", text)
    yield ".SH SEE ALSO"
    yield "\\fBcrash\\fR(8), \\fBmakedumpfile\\fR(8), \\fBproc\\fR(5)"


def _verb(name: str, parser: argparse.ArgumentParser, summary: str) -> Iterator[str]:
    yield f".SS {_plain(name)}"
    yield f"\\fBvmaforensics {_plain(name)}\\fR {' '.join(_synopsis(parser))}"
    yield from _prose(parser.description or f"{summary[:1].upper()}{summary[1:]}.")
    own = [action for group in parser._action_groups if group.title != _COMMON for action in group._group_actions]
    yield from _actions([action for action in own if not isinstance(action, argparse._HelpAction)])
    if name in EXAMPLES:
        yield ".PP"
        yield "Examples:"
    for command, text in EXAMPLES.get(name, ()):
        yield ".PP"
        yield _plain(text[:1].upper() + text[1:] + ("" if text.endswith("?") else ":"))
        yield ".PP"
        yield ".RS 4"
        yield ".nf"
        yield _plain(command)
        yield ".fi"
        yield ".RE"


def _synopsis(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield "[\\fIOPTION\\fR ...]"
    for group in parser._mutually_exclusive_groups:
        if group.required:
            yield "{" + " | ".join(_option(action) for action in group._group_actions) + "}"
    for action in parser._actions:
        if action.option_strings and action.required:
            yield _option(action)
    for action in parser._actions:
        if not action.option_strings:
            yield _positional(action)


def _option(action: argparse.Action) -> str:
    return f"\\fB{_plain(action.option_strings[-1])}\\fR {_value(action)}".rstrip()


def _positional(action: argparse.Action) -> str:
    name = _value(action)
    return {"+": f"{name} ...", "*": f"[{name} ...]", "?": f"[{name}]"}.get(str(action.nargs), name)


def _actions(actions: list[argparse.Action]) -> Iterator[str]:
    for action in actions:
        if action.help is argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction):
            continue
        names = ", ".join(f"\\fB{_plain(name)}\\fR" for name in action.option_strings)
        tag = f"{names} {_value(action)}".strip() if names else _positional(action)
        text = (action.help or "").replace("show program's version number and exit", "print the version")
        text = text.replace("show this help message and exit", "print help, and how to use it")
        yield from _item(tag, text)


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if action.metavar is not None:
        return f"\\fI{_plain(str(action.metavar))}\\fR"
    if action.choices is not None:
        return "{" + ",".join(f"\\fB{_plain(str(choice))}\\fR" for choice in action.choices) + "}"
    return f"\\fI{_plain(action.dest.upper())}\\fR"


def _item(tag: str, text: str) -> Iterator[str]:
    yield ".TP"
    yield tag
    yield from _filled(text)


def _prose(text: str) -> Iterator[str]:
    """Paragraphs as they are; indented lines as a table that keeps its lines."""
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        lines = paragraph.split("\n")
        if any(line.startswith("  ") for line in lines):
            yield ".PP"
            yield ".nf"
            yield from (_line(_plain(line)) for line in lines)
            yield ".fi"
        else:
            yield ".PP"
            yield from _filled(" ".join(lines))


def _filled(text: str) -> Iterator[str]:
    """Running text, in lines that an editor shows whole."""
    for line in textwrap.wrap(text, 76, break_long_words=False, break_on_hyphens=False):
        yield _line(_plain(line))


def _line(text: str) -> str:
    """Keeps a line that begins with a dot or a quote from being a request."""
    return f"\\&{text}" if text.startswith((".", "'")) else text


def _plain(text: str) -> str:
    special = {"\\": "\\e", "-": "\\-", "…": "\\[u2026]", "~": "\\(ti", "^": "\\(ha", "`": "\\(ga", "'": "\\(aq"}
    return "".join(special.get(char, char) for char in text)


if __name__ == "__main__":
    main()
