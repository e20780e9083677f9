"""Logs of earlier kernels in memory that was left alone, as fs/pstore/ram.c writes them."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from handmade import BASE, LINUX, PAGE, Machine

from vmaforensics.views.log.earlier import EarlierLog, read_earlier
from vmaforensics.views.log.records import ON_CPU

if TYPE_CHECKING:
    from collections.abc import Iterable

RESOURCES = LINUX | {"resource": "start:u64 end:u64 name:* flags:u64 desc:u64 parent:* sibling:* child:*"}
RESERVED = 16 * PAGE  # physical address from which on nothing is System RAM


def packed(text: bytes) -> bytes:
    """As a kernel deflates it: a raw stream."""
    deflate = zlib.compressobj(wbits=-15)
    return deflate.compress(text) + deflate.flush()


def zone(data: bytes, start: int | None = None) -> bytes:
    """A struct persistent_ram_buffer and its data."""
    return struct.pack("<4sII", b"DBGC", len(data) if start is None else start, len(data)) + data


def earlier(zones: Iterable[tuple[int, bytes]]) -> list[EarlierLog]:
    """What is found in a memory whose second half was left alone, with zones at some places of it."""
    machine = Machine(RESOURCES, pages=32)
    name = machine.room(16)
    machine.write(name, b"System RAM\0")
    ram = machine.put("resource", {"start": 0, "end": RESERVED - 1, "name": name})
    machine.symbols["iomem_resource"] = machine.put("resource", {"child": ram})
    for place, raw in zones:
        machine.write(BASE + RESERVED + place, raw)
    return read_earlier(machine.kernel())


def test_the_parts_of_a_dump_are_joined_the_highest_first() -> None:
    newest = b"====1704067217.243346-C\n" + packed(b"Panic#2 Part1\n<0>[    8.000001] Kernel panic\n")
    oldest = (
        b"====1704067217.243346-D\nPanic#2 Part2\n<6>[    0.000000][    T1] Linux\n<12>[    7.500000][    C3] more\n"
    )
    (found,) = earlier([(0x122, zone(newest)), (0x1777, zone(oldest))])
    assert (found.title, found.physical, found.written) == ("Panic#2", RESERVED + 0x1777, 1704067217)
    records = found.log.records
    assert [found.log.text(row) for row in range(3)] == [b"Linux", b"more", b"Kernel panic"]
    assert records.time.tolist() == [0, 7_500_000_000, 8_000_001_000]
    assert (records.level.tolist(), records.facility.tolist()) == ([6, 4, 0], [0, 1, 0])
    assert records.caller.tolist()[:2] == [1, ON_CPU | 3]
    assert found.log.problems == ()


def test_a_part_that_is_gone_and_one_that_cannot_be_unpacked_are_named() -> None:
    text = b"====1704067217.243346-D\nOops#1 Part3\n<6>[    1.000000] a\n"
    bad = b"====1704067218.243346-C\n\xff\xff\xff\xff"
    gone, unknown = earlier([(0, zone(text)), (PAGE, zone(bad))])
    assert [problem[:6] for problem in gone.log.problems] == ["part 1", "part 2"]
    assert "compressed in a way not known" in unknown.log.problems[0]
    assert len(unknown.log.records) == 0


def test_a_console_that_has_gone_round_is_read_from_its_start() -> None:
    (found,) = earlier([(0, zone(b"world\nhello ", 6))])
    assert (found.title, found.log.text(0)) == ("console", b"hello world")


def test_sizes_that_do_not_fit_signatures_alone_and_bytes_are_no_log() -> None:
    far = struct.pack("<4sII", b"DBGC", 0, 1 << 31)
    late = struct.pack("<4sII", b"DBGC", 9, 8) + b"12345678"
    assert earlier([(0, far), (PAGE, late), (2 * PAGE, zone(bytes(range(256)))), (16 * PAGE - 4, b"DBGC")]) == []


def test_what_unpacks_without_end_is_cut() -> None:
    (found,) = earlier([(0, zone(b"====1.000000-C\n" + packed(b"Panic#1 Part1\n" + b"\n" * (8 << 20))))])
    assert (len(found.log.data), len(found.log.records)) == (1 << 17, 1 << 17)
    assert found.log.problems == ("of more than 131,072 lines of Panic#1, the last are shown",)
