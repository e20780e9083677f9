"""Names chosen by whoever ran on the machine, shown to whoever investigates it."""

from __future__ import annotations

import unicodedata

import pytest

from vmaforensics.words.printable import printable


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"/usr/bin/bash", "/usr/bin/bash"),
        ("/tmp/größe/日本語 🎉".encode(), "/tmp/größe/日本語 🎉"),
        (b"", ""),
        (b"\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        (b"a\nb\rc\td\0e", "a\\x0ab\\x0dc\\x09d\\x00e"),
        (b"\x7f", "\\x7f"),
        ("\x9b31m\x85".encode(), "\\x9b31m\\x85"),  # C1: CSI and next line
        (b"\x9b31m", "\\x9b31m"),  # the same as a lone byte
        (b"\xff\xfe caf\xe9", "\\xff\\xfe caf\\xe9"),
        (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),  # a surrogate is no UTF-8
        (b"\xc0\xaf", "\\xc0\\xaf"),  # nor is an overlong slash
        ("\ud800x\udcff", "\\ud800x\\udcff"),
        ("exe\u202etxt.sh", "exe\\u202etxt.sh"),
        ("\u2066a\u2069\u061c", "\\u2066a\\u2069\\u061c"),
        ("a\u200bb\u200db\u2060c\ufeffd\u00ade", "a\\u200bb\\u200db\\u2060c\\ufeffd\\xade"),
        ("a\u2028b\u2029", "a\\u2028b\\u2029"),
        ("\U000e0041", "\\U000e0041"),
        (rb"dev-disk-by\x2did.swap \012", r"dev-disk-by\x2did.swap \012"),  # a backslash is left as it is
        (b"=cmd|'/c'!A0 <b>&\"", "=cmd|'/c'!A0 <b>&\""),  # markup is the renderer's to escape
    ],
)
def test_nothing_acts_on_the_terminal(raw: bytes | str, text: str) -> None:
    assert printable(raw) == text


@pytest.mark.parametrize("ranges", [(0x00, 0x20), (0x7F, 0xA0), (0x200B, 0x2010), (0x202A, 0x202F), (0x2060, 0x206A)])
def test_every_control_is_escaped(ranges: tuple[int, int]) -> None:
    for code in range(*ranges):
        assert "\\" in printable(chr(code)), hex(code)


def test_no_character_of_a_control_category_is_left() -> None:
    for code in range(0x110000):
        out = printable(chr(code))
        if unicodedata.category(chr(code)) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(chr(code)) in (
            "LRE",
            "RLE",
            "PDF",
            "LRO",
            "RLO",
            "LRI",
            "RLI",
            "FSI",
            "PDI",
        ):
            assert out.isascii(), hex(code)
            assert out.isprintable(), hex(code)


def test_what_comes_out_can_be_written_and_is_one_line() -> None:
    hostile = bytes(range(256)) * 16 + "\u2028\u202e\ud800".encode("utf-8", "surrogatepass")
    out = printable(hostile)
    assert len(out.splitlines()) == 1
    assert printable(out) == out
    out.encode()
