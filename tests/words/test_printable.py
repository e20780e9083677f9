"""Bytes of an image become text without an error, whatever they are."""

from __future__ import annotations

import pytest

from vmaforensics.words.printable import decoded, printable


@pytest.mark.parametrize(
    ("raw", "text"), [(b"", ""), (b"[heap]", "[heap]"), ("Größe".encode(), "Größe"), (b"a\xff", r"a\xff")]
)
def test_what_is_no_utf_8_is_escaped(raw: bytes, text: str) -> None:
    assert decoded(raw) == text


def test_text_that_is_decoded_still_has_to_be_made_printable() -> None:
    assert decoded(b"a\x1b[2J") == "a\x1b[2J"
    assert printable(decoded(b"a\x1b[2J")) == printable(b"a\x1b[2J") == r"a\x1b[2J"
