"""One reading of memory for all that tells of a kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from vmaforensics.image.formats.raw import RawMemory
from vmaforensics.image.formats.segments import FlatMemory, Segments, lay_out
from vmaforensics.image.source import Mapped
from vmaforensics.kernel import survey
from vmaforensics.kernel.survey import Survey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.columns.types import U8

PAGE = 4096
TEXT = b"OSRELEASE=6.1.0\nSYMBOL(_stext)=ffffffff81000000\n"
BANNER = b"Linux version 6.1.0 (builder@host) #1 SMP"


def token_table() -> bytes:
    """256 strings, of which 48 to 57 are the digits, and the index behind them, aligned to 8."""
    strings = [b"%d" % (number - 48) if 48 <= number < 58 else b"t%d" % number for number in range(256)]
    table = b"".join(text + b"\0" for text in strings)
    offsets = np.cumsum([0, *(len(text) + 1 for text in strings[:-1])]).astype("<u2").tobytes()
    return table.ljust(-(-len(table) // 8) * 8, b"\0") + offsets


def memory(data: bytes, pa: int = 0, kind: type[FlatMemory] = FlatMemory) -> FlatMemory:
    buffer = np.frombuffer(data, np.uint8)
    return lay_out(Mapped(buffer), Segments.of_rows([(pa, len(data), len(data), 0, 0)]), kind=kind)[0]


def content() -> bytearray:
    data = bytearray(np.random.default_rng(5).integers(1, 255, 64 * PAGE, np.uint8).tobytes())
    data[9 * PAGE : 10 * PAGE] = TEXT.ljust(PAGE, b"\0")
    data[20 * PAGE : 21 * PAGE] = (bytes(24) + TEXT).ljust(PAGE, b"\0")
    data[30 * PAGE + 64 : 30 * PAGE + 64 + len(BANNER) + 1] = BANNER + b"\0"
    tables = token_table()
    data[40 * PAGE + 8 : 40 * PAGE + 8 + len(tables)] = tables
    return data


@pytest.mark.parametrize("step", [PAGE, 3 * PAGE, 5000, 1 << 20])
@pytest.mark.parametrize("cut", [0, 1, 3236])
def test_everything_is_found_wherever_a_piece_begins_and_ends(
    monkeypatch: pytest.MonkeyPatch, step: int, cut: int
) -> None:
    monkeypatch.setattr(survey, "_STEP", step)
    known = Survey(memory(bytes(content()[cut:]), pa=cut))
    assert [info.place for info in known.infos()] == [9 * PAGE, 20 * PAGE + 24]
    assert [info.release for info in known.infos()] == ["6.1.0"] * 2
    assert known._tables == [(40 * PAGE + 8, len(token_table()) - 512)]
    assert known.banner() == BANNER.decode()


def test_memory_is_read_once_and_no_further_than_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "_STEP", PAGE)
    lying = memory(bytes(content()))
    read: list[int] = []
    whole = lying.scan

    def scan(size: int = PAGE) -> Iterator[tuple[int, U8]]:
        for pa, piece in whole(size):
            read.append(pa)
            yield pa, piece

    monkeypatch.setattr(lying, "scan", scan)
    known = Survey(lying)
    next(known.infos())
    assert read == [number * PAGE for number in range(10)]
    for _ in range(3):
        list(known.infos())
        known.banner()
    assert read == [number * PAGE for number in range(64)]


def test_what_was_found_moves_with_raw_memory() -> None:
    raw = memory(bytes(content()), kind=RawMemory)
    assert isinstance(raw, RawMemory)
    raw.move(0)
    known = Survey(raw)
    assert [info.place for info in known.infos()] == [9 * PAGE, 20 * PAGE + 24]
    raw.move(0x100000)
    assert [info.place for info in known.infos()] == [0x100000 + 9 * PAGE, 0x100000 + 20 * PAGE + 24]


def test_a_flood_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "_MOST", 3)
    assert len(list(Survey(memory(TEXT.ljust(PAGE, b"\0") * 9)).infos())) == 3
