"""Strings of a dump made fit for a terminal, a table or a log: nothing in them can act on what shows them."""

from __future__ import annotations

import re

# What moves the cursor, ends a line, reverses or hides text. By Unicode category: Cc, Cf, Cs, Zl and Zp.
_UNSAFE = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # C0, DEL, C1: escape sequences, newlines, tabs
    "\u00ad\u180e\u200b-\u200d\u2060-\u2065\ufeff"  # no width
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"  # bidirectional controls
    "\u2028\u2029"  # line and paragraph separators
    "\ufff9-\ufffb\U000e0000-\U000e007f"  # annotations, tags
    "\ud800-\udfff"  # lone surrogates, which no encoding can write
    "]"
)


def decoded(raw: bytes) -> str:
    r"""Bytes of an image as text: UTF-8, with ``\xNN`` for what is not. Not fit to be shown, see :func:`printable`.

    >>> decoded(b"a\xff")
    'a\\xff'
    """
    return raw.decode("utf-8", "backslashreplace")


def comm_of(raw: bytes) -> bytes:
    """``task_struct.comm`` up to its NUL; what stands behind it is left from an older name.

    >>> comm_of(b"sh\\0temd\\0")
    b'sh'
    """
    return bytes(raw).split(b"\0", 1)[0]


def printable(raw: bytes | str) -> str:
    r"""``raw`` as text of one line, without any character that controls what displays it.

    Bytes are decoded as UTF-8. A byte that is not UTF-8, a control character (C0, C1), a bidirectional
    override or isolate, an invisible character, a line separator and a lone surrogate are written as
    ``\xNN``, ``\uNNNN`` or ``\UNNNNNNNN``; everything else stays as it is.

    A backslash stays one backslash. Names hold real ones (systemd's ``\x2d``, the kernel's own ``\012``), and
    would not be found again if each were doubled. So the text is for reading and is not turned back into
    bytes: a name that spells out ``\x1b`` looks like one that holds the byte.

    >>> printable(b"a\x1b[2Jb\xff")
    'a\\x1b[2Jb\\xff'
    """
    text = decoded(raw) if isinstance(raw, bytes) else raw
    if text.isprintable():  # none of the above is
        return text
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
