from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from work import budget

from vmaforensics.errors import MemoryReadError, UnsupportedFormatError
from vmaforensics.image.kdump import codecs
from vmaforensics.image.kdump import pages as kdump_pages
from vmaforensics.image.kdump.pages import KdumpMemory
from vmaforensics.image.limits import Limits
from vmaforensics.image.placed import PageState

from .build import CODECS, PAGE, VMCOREINFO, ZERO, Kdump, page
from .truth import bytes_of, check, pfns, states

if TYPE_CHECKING:
    from .conftest import Opener

# RAM: 1-6, 9, 64-66, 130; filtered: 2, 65; zero: 3, 66
PAGES: dict[int, bytes | None] = {
    1: page(1),
    2: None,
    3: ZERO,
    4: page(4),
    5: page(5),
    6: page(6),
    9: page(9),
    64: page(64),
    65: None,
    66: ZERO,
    130: page(130),
}
FILTERED = {n * PAGE + at for n in (2, 65) for at in range(PAGE)}
STATES = "-pazppp--p" + "-" * 54 + "paz" + "-" * 63 + "p-"


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_gives_the_pages_and_their_states(opened: Opener, codec: str) -> None:
    image = opened(Kdump(pages=PAGES, codec=codec).build())
    assert image.problems == ()
    assert states(image.memory, 132) == STATES
    check(image.memory, bytes_of(PAGES), FILTERED, 131 * PAGE)
    assert states(image.memory, 132) == STATES
    assert image.memory.problems() == ()


@pytest.mark.parametrize("version", range(7))
def test_every_header_version_is_read_by_what_it_has(opened: Opener, version: int) -> None:
    image = opened(Kdump(pages=PAGES, version=version).build())
    assert states(image.memory, 132) == STATES
    check(image.memory, bytes_of(PAGES), FILTERED, 131 * PAGE)
    assert image.vmcoreinfo == (VMCOREINFO if version >= 3 else None)
    assert len(image.notes) == (5 if version >= 4 else 0)
    assert [cpu.table_register for cpu in image.cpus] == ([0x1234000, 0x5678000] if version >= 4 else [])
    assert image.details.get("dump level") == ("31" if version >= 1 else None)
    assert image.problems == ()


def test_a_diskdump_has_no_kdump_sub_header(opened: Opener) -> None:
    image = opened(Kdump(pages=PAGES, signature=b"DISKDUMP", version=1).build())
    assert states(image.memory, 132) == STATES
    assert image.vmcoreinfo is None


def test_pages_of_one_dump_may_be_compressed_in_different_ways(opened: Opener) -> None:
    codecs = {1: "zlib", 4: "lzo", 5: "snappy", 6: "zstd", 9: "raw", 64: "zlib", 130: "zstd"}
    image = opened(Kdump(pages=PAGES, codec=codecs).build())
    check(image.memory, bytes_of(PAGES), FILTERED, 131 * PAGE)


def test_with_one_bitmap_every_page_of_ram_is_dumped(opened: Opener) -> None:
    pages = {n: data for n, data in PAGES.items() if data is not None}
    image = opened(Kdump(pages=pages, one_bitmap=True).build())
    check(image.memory, bytes_of(pages), set(), 131 * PAGE)


def test_the_zero_page_may_lie_behind_the_others(opened: Opener) -> None:
    image = opened(Kdump(pages=PAGES, zero_last=True).build())
    assert states(image.memory, 132) == STATES
    check(image.memory, bytes_of(PAGES), FILTERED, 131 * PAGE)


def test_a_shared_page_that_is_not_zero_is_no_zero_page(opened: Opener) -> None:
    kdump = Kdump(pages={1: page(1), 2: page(2), 3: page(3)}, codec="raw")
    data = bytearray(kdump.build())
    first = data[kdump.descriptors_at : kdump.descriptors_at + 24]
    data[kdump.descriptors_at + 24 : kdump.descriptors_at + 48] = first
    image = opened(bytes(data))
    assert states(image.memory, 4) == "-ppp"
    assert image.memory.read(PAGE, 2 * PAGE) == page(1) * 2


@pytest.mark.parametrize("block", [8192, 65536])
def test_larger_blocks_are_read_as_pages(opened: Opener, block: int) -> None:
    pages = {1: page(1, block), 2: None, 3: bytes(block), 5: page(5, block)}
    image = opened(Kdump(pages=pages, block=block, codec="zstd").build())
    filtered = set(range(2 * block, 3 * block))
    check(image.memory, bytes_of(pages, block), filtered, 6 * block)
    per = block // PAGE
    assert states(image.memory, 6 * per) == "".join(letter * per for letter in "-paz-p")


@pytest.mark.parametrize("block", [0, -4096, 512, 4097, 12288, 1 << 30])
def test_a_block_size_that_is_no_page_size_is_refused(opened: Opener, block: int) -> None:
    kdump = Kdump(pages=PAGES, main={428: struct.pack("<i", block)})
    with pytest.raises(UnsupportedFormatError, match="block_size"):
        opened(kdump.build())


def test_other_machines_are_refused_by_name(opened: Opener) -> None:
    big = Kdump(pages=PAGES, main={428: struct.pack(">i", 4096)})
    with pytest.raises(UnsupportedFormatError, match="big-endian machine"):
        opened(big.build())
    narrow = Kdump(pages=PAGES, main={416: struct.pack("<i", 4096), 428: bytes(4)})
    with pytest.raises(UnsupportedFormatError, match="32-bit machine"):
        opened(narrow.build())
    for machine in (b"aarch64", b"s390x", b"riscv64", b"ppc64le"):
        with pytest.raises(UnsupportedFormatError, match=rf"another machine \({machine.decode()}\)"):
            opened(Kdump(pages=PAGES, machine=machine).build())


def test_names_that_an_old_makedumpfile_shifted_are_found(opened: Opener) -> None:
    """Up to 1.6.8 it copied them from 4 bytes on in ``uts_namespace``, where they lay until 5.11."""
    data = bytearray(Kdump(pages=PAGES).build())
    names = data[12 : 12 + 6 * 65]
    data[12 : 12 + 6 * 65] = names[4:] + bytes(4)
    image = opened(bytes(data))
    assert (image.details["release"], image.details["machine"]) == ("6.1.0-test", "x86_64")
    assert "4 bytes before their place" in image.problems[0]
    assert image.cpus == opened(Kdump(pages=PAGES).build()).cpus


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_cache_smaller_than_what_is_asked_for_lets_go_of_the_oldest(opened: Opener, slots: int) -> None:
    whole = opened(Kdump(pages=PAGES).build()).memory
    assert isinstance(whole, KdumpMemory)
    small = KdumpMemory(
        whole.ranges, block_shift=12, ram=whole._ram, dumped=whole._dumped, parts=whole._parts, cache_bytes=slots * PAGE
    )
    check(small, bytes_of(PAGES), FILTERED, 131 * PAGE)


@pytest.mark.parametrize("slots", [0, 1, 3])
def test_unpacked_pages_stay_within_a_quarter_of_the_memory_allowed(
    opened: Opener, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kdump_pages, "_LEAST", 1)  # a MiB of pages is always allowed
    memory = opened(Kdump(pages=PAGES).build()).memory
    assert isinstance(memory, KdumpMemory)
    memory.gather(np.arange(4, dtype=np.uint64) * np.uint64(PAGE), 8)  # what is unpacked already may stay
    memory.limit(Limits(memory=4 * slots * PAGE))
    check(memory, bytes_of(PAGES), FILTERED, 131 * PAGE)
    assert memory._room == max(slots, 1)


@pytest.mark.parametrize("codec", CODECS)
def test_any_number_of_threads_unpacks_the_same_pages_in_the_same_order(
    opened: Opener, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codecs, "_SHARE", 3)
    kdump = Kdump(pages={n: page(n) for n in range(1, 41)}, codec=codec)
    data = bytearray(kdump.build())
    for damaged in (5, 6, 39):
        struct.pack_into("<I", data, kdump.descriptors_at + 24 * damaged + 8, 3)
    want = b"".join(bytes(PAGE) if n in (6, 7, 40) else page(n) for n in range(1, 41))
    for jobs in (1, 4):
        memory = opened(bytes(data)).memory
        memory.limit(Limits(jobs=jobs))
        pieces = list(memory.chunks(PAGE * 4))
        assert [pa >> 12 for pa, _ in pieces] == [1, 5, 8, 9, 13, 17, 21, 25, 29, 33, 37]
        assert b"".join(piece.tobytes() for _, piece in pieces) == want.replace(bytes(PAGE), b"")
        got, ok = memory.gather(np.arange(1, 41, dtype=np.uint64) << np.uint64(12), PAGE)
        assert np.flatnonzero(~ok).tolist() == [5, 6, 39]
        assert got.tobytes() == want
        assert "of the dump's pages read so far, 3 pages absent" in memory.problems()[0]


def test_a_part_of_a_split_dump_holds_its_window(opened: Opener) -> None:
    image = opened(Kdump(pages=PAGES, split=(5, 65)).build())
    assert states(image.memory, 10) == "-aaaappppp".replace("ppppp", "pp--p")
    part = {n: data if 5 <= n < 65 else None for n, data in PAGES.items()}
    filtered = {n * PAGE + at for n, data in part.items() if data is None for at in range(PAGE)}
    check(image.memory, bytes_of(part), filtered, 131 * PAGE)
    assert "other parts" in image.problems[0]


def test_a_part_that_holds_everything_lacks_nothing(opened: Opener) -> None:
    image = opened(Kdump(pages=PAGES, split=(0, 131)).build())
    assert states(image.memory, 132) == STATES
    assert image.problems == ()


def test_damaged_descriptors_cost_their_pages_and_are_counted(opened: Opener) -> None:
    kdump = Kdump(pages={n: page(n) for n in range(1, 12)}, codec="zlib")
    data = bytearray(kdump.build())

    def descriptor(n: int, fmt: str, at: int, value: int) -> None:
        struct.pack_into(fmt, data, kdump.descriptors_at + 24 * n + at, value)

    descriptor(1, "<Q", 0, 0)  # page 2: lost
    descriptor(2, "<Q", 0, len(data) + 5)  # page 3: outside
    descriptor(3, "<Q", 0, 2**64 - 8)  # page 4: outside
    descriptor(4, "<I", 8, 4097)  # page 5: too large
    descriptor(5, "<I", 12, 0x40)  # page 6: unknown compression
    descriptor(6, "<I", 12, 2)  # page 7: zlib data said to be lzo
    descriptor(7, "<I", 12, 0)  # page 8: said to be raw, but too short
    descriptor(8, "<I", 12, 0x20)  # page 9: said to be zstd
    descriptor(9, "<I", 12, 4)  # page 10: said to be snappy
    descriptor(10, "<I", 8, 3)  # page 11: cut off
    image = opened(bytes(data))
    assert states(image.memory, 13) == "-paaaaappppp-"
    assert "2 pages lies beyond" in image.problems[0]
    for _ in range(2):
        ok = image.memory.gather(np.arange(13, dtype=np.uint64) << np.uint64(12), PAGE)[1]
        assert np.flatnonzero(ok).tolist() == [1]
        assert states(image.memory, 13) == "-p" + "a" * 10 + "-"
        said = image.memory.problems()
        assert [line.split(":")[0].split()[-3] for line in said] == ["1", "2", "1", "1", "5"]
        assert "first: page frame 0x7" in said[4]
        assert [pa >> 12 for pa, _ in image.memory.chunks()] == [1]
    with pytest.raises(MemoryReadError, match="not in the dump"):
        image.memory.read(0x7000, 8)


def test_pages_that_unpack_to_another_size_are_damaged(opened: Opener) -> None:
    for codec, (_, compress) in CODECS.items():
        for size in (PAGE - 1, PAGE + 1, 1 << 20):
            kdump = Kdump(pages={1: page(1), 2: page(2)}, codec=codec)
            data = bytearray(kdump.build())
            packed = compress(bytes(size))
            struct.pack_into("<QI", data, kdump.descriptors_at + 24, len(data), min(len(packed), PAGE))
            image = opened(bytes(data) + packed)
            ok = image.memory.gather(pfns(0x1000, 0x2000), PAGE)[1].tolist()
            assert ok == [True, codec == "raw" and size > PAGE]  # of raw data a page was taken


def test_a_truncated_file_holds_what_is_left(opened: Opener) -> None:
    kdump = Kdump(pages={n: page(n) for n in range(1, 12)}, codec="raw")
    data = kdump.build()
    image = opened(data[: -PAGE - 1])
    assert states(image.memory, 13) == "-pppppppppaa-"
    assert "the data of 2 pages lies beyond" in image.problems[0]
    image = opened(data[: kdump.descriptors_at + 24 * 5 + 3])
    assert states(image.memory, 13) == "-aaaaaaaaaaa-"
    assert "6 of 11 page descriptors are missing" in image.problems[0]


@pytest.mark.parametrize(
    ("at", "fmt", "value", "field"),
    [
        (8, "<i", -1, "header_version"),
        (8, "<i", 1000, "header_version"),
        (432, "<i", -2, "sub_hdr_size"),
        (432, "<i", 0, "sub_hdr_size"),
        (432, "<i", 2**31 - 1, "sub_hdr_size"),
        (436, "<I", 2**32 - 1, "bitmap_blocks"),
        (436, "<I", 0, "max_mapnr"),
        (PAGE + 96, "<Q", 0, "max_mapnr_64"),
        (PAGE + 96, "<Q", 2**63, "max_mapnr_64"),
        (PAGE + 96, "<Q", 2**20, "max_mapnr_64"),
    ],
)
def test_layouts_that_cannot_be_believed_are_refused_by_field(
    opened: Opener, at: int, fmt: str, value: int, field: str
) -> None:
    kdump = Kdump(pages=PAGES, main={at: struct.pack(fmt, value)})
    with pytest.raises(UnsupportedFormatError, match=f"{field}.*file offset {at}") as caught:
        opened(kdump.build())
    assert "\n" not in str(caught.value)


def test_max_mapnr_is_the_64_bit_one_from_version_6_on(opened: Opener) -> None:
    image = opened(Kdump(pages=PAGES, main={440: struct.pack("<I", 7)}).build())
    assert states(image.memory, 132) == STATES
    image = opened(Kdump(pages=PAGES, version=5, main={440: struct.pack("<I", 7)}).build())
    assert states(image.memory, 132) == STATES[:7] + "-" * 125


@pytest.mark.parametrize("at", [32, 48, 64])
def test_areas_outside_the_file_are_reported_and_the_memory_is_read(opened: Opener, at: int) -> None:
    for offset, size in ((2**64 - 1, 10), (1 << 40, 100), (5000, 2**64 - 1), (5000, 1 << 40)):
        kdump = Kdump(pages=PAGES, main={PAGE + at: struct.pack("<QQ", offset, size)})
        image = opened(kdump.build())
        assert f"(file offset {PAGE + at})" in image.problems[0]
        assert states(image.memory, 132) == STATES


def test_what_the_header_says_is_shown(opened: Opener) -> None:
    image = opened(
        Kdump(pages=PAGES, status=0x8 | 0x10 | 0x20, time=1_700_000_000, eraseinfo=b"erase cred.uid size 4\n").build()
    )
    assert image.details == {
        "header version": "6",
        "compression": "zstd",
        "page size": "4,096",
        "dump level": "31",
        "sysname": "Linux",
        "nodename": "guest",
        "release": "6.1.0-test",
        "version": "#1 SMP",
        "machine": "x86_64",
        "domainname": "(none)",
        "crash time": "2023-11-14T22:13:20+00:00",
        "excluded": "unused vmemmap pages (makedumpfile -e)",
        "pages of RAM": "11",
        "pages excluded": "2",
        "pages held": "7",
        "pages zero": "2",
    }
    assert "incomplete" in image.problems[0]
    assert "erase cred.uid size 4" in image.problems[1]


def test_strings_of_the_header_are_made_printable(opened: Opener) -> None:
    image = opened(Kdump(pages=PAGES, machine=b"\x1b[31mx\n\xff").build())
    assert image.details["machine"] == "\\x1b[31mx\\x0a\\xff"
    assert "none that is known; taken for x86-64" in image.problems[0]


def test_a_bitmap_of_a_terabyte_costs_little(opened: Opener) -> None:
    """The file is 66 MB long: two bitmaps, and a few pages far apart."""
    top = 1 << 28
    pages = {0: page(0), 1 << 20: None, top - 2: ZERO, top - 1: page(3)}
    data = Kdump(pages=pages, max_mapnr=top).build()
    with budget(calls=100_000):  # of 2**28 pages
        memory = opened(data).memory
        assert memory.page_states(pfns(0, 1, 1 << 20, top - 2, top - 1, top, 2**52 - 1)).tolist() == [
            0,
            3,
            2,
            1,
            0,
            3,
            3,
        ]
        assert memory.read((top - 1) << 12, PAGE) == page(3)
        assert [pa >> 12 for pa, _ in memory.chunks()] == [0, top - 1]


def test_a_bitmap_of_every_other_page_is_no_machine(opened: Opener) -> None:
    kdump = Kdump(pages={0: page(0)}, max_mapnr=1 << 24, one_bitmap=True)
    data = bytearray(kdump.build())
    start = kdump.edges[5]
    data[start : start + (1 << 21)] = b"\x55" * (1 << 21)
    with pytest.raises(UnsupportedFormatError, match="runs of pages"):
        opened(bytes(data))


def test_pages_once_known_to_be_damaged_stay_so_when_the_cache_is_full(opened: Opener) -> None:
    kdump = Kdump(pages={n: page(n) for n in range(1, 9)}, codec="zlib")
    data = bytearray(kdump.build())
    struct.pack_into("<I", data, kdump.descriptors_at + 12, 0x20)
    memory = opened(bytes(data)).memory
    assert isinstance(memory, KdumpMemory)
    memory.limit(Limits(memory=4 * 2 * PAGE))  # two pages
    for _ in range(3):
        assert memory.gather(np.arange(1, 9, dtype=np.uint64) << np.uint64(12), 8)[1].sum() == 7
    assert "1 page absent" in memory.problems()[0]
    assert memory.page_states(pfns(1)) == PageState.ABSENT


def test_a_version_that_is_newer_than_ours_is_read_and_told(opened: Opener) -> None:
    image = opened(Kdump(pages=PAGES, main={8: struct.pack("<i", 7)}).build())
    assert states(image.memory, 132) == STATES
    assert any("header_version (file offset 8) is 7" in problem for problem in image.problems)
