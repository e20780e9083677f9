"""JSON that is inert where it is shown: what controls a terminal or hides text is written as an escape."""

from __future__ import annotations

import re

import msgspec

from vmaforensics.words.printable import printable

# What printable() escapes, as UTF-8; control characters below 0x20 JSON escapes itself.
_UNSAFE = re.compile(
    rb"\x7f|\xc2[\x80-\x9f\xad]"  # DEL, C1, soft hyphen
    rb"|\xd8\x9c|\xe1\xa0\x8e"  # U+061C, U+180E
    rb"|\xe2\x80[\x8b-\x8f\xa8-\xae]|\xe2\x81[\xa0-\xaf]"  # U+200B to U+200F, U+2028 to U+202E, U+2060 to U+206F
    rb"|\xef\xbb\xbf|\xef\xbf[\xb9-\xbb]"  # U+FEFF, U+FFF9 to U+FFFB
    rb"|\xf3\xa0[\x80\x81][\x80-\xbf]"  # U+E0000 to U+E007F
)


def json_text(value: object) -> bytes:
    r"""``value`` (msgspec structs, dicts, lists) as one line of JSON, without a newline at its end.

    No byte of it acts on a terminal: control, bidirectional and invisible characters are written as ``\uNNNN``,
    which stands for the same character. Lone surrogates, which UTF-8 cannot hold, become the text ``\udNNN``.

    >>> json_text({"comm": "a\u202eb"})
    b'{"comm":"a\\u202eb"}'
    """
    try:
        raw = msgspec.json.encode(value)
    except UnicodeEncodeError:
        raw = msgspec.json.encode(printable_all(msgspec.to_builtins(value)))
    return _UNSAFE.sub(_escape, raw) if _UNSAFE.search(raw) else raw


_ESCAPE = re.compile(rb"\\[unrtbf]")


def is_inert(raw: bytes) -> bool:
    """Does JSON text hold no unsafe character, raw or as an escape?

    It may say no of text with a backslash before one of ``unrtbf``, which need not be an escape; it never says
    yes of unsafe text.
    """
    return _UNSAFE.search(raw) is None and _ESCAPE.search(raw) is None


def printable_all(value: object) -> object:
    """``value`` (dicts, lists, strings, numbers) with every string in it made printable, keys too."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable_all(key): printable_all(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [printable_all(item) for item in value]
    return value


def _escape(match: re.Match[bytes]) -> bytes:
    units = match[0].decode().encode("utf-16-be").hex()
    return b"".join(b"\\u" + units[at : at + 4].encode() for at in range(0, len(units), 4))
