from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vmaforensics.errors import OutputError
from vmaforensics.image.image import Note
from vmaforensics.image.kdump.writer import Head, Written, write_kdump
from vmaforensics.image.overlay import Overlay

from .build import NOTES, PAGE, VMCOREINFO, ZERO, Kdump, Load, elf, page
from .truth import bytes_of, check, states

if TYPE_CHECKING:
    from vmaforensics.image.memory import PhysicalMemory

    from .conftest import Opener

PAGES: dict[int, bytes | None] = {
    1: page(1),
    2: None,
    3: ZERO,
    4: page(4),
    5: bytes(range(256)) * 16,
    64: page(64),
    70: page(70),
}
ALL = np.arange(80, dtype=np.uint64)


def written(memory: PhysicalMemory, pages: np.ndarray, **options: object) -> tuple[bytes, Written]:
    stream = io.BytesIO(b"rest of an older file" * 50_000)
    ram_ranges = options.pop("ram_ranges", None)
    head = Head(**options)  # type: ignore[arg-type]
    said = write_kdump(stream, memory, pages, head, ram_ranges=ram_ranges, level=3)  # type: ignore[arg-type]
    assert said.size == len(stream.getvalue())
    return stream.getvalue(), said


def test_what_is_written_reads_back_with_its_states(opened: Opener) -> None:
    source = opened(Kdump(pages=PAGES).build())
    data, said = written(source.memory, ALL)
    image = opened(data)
    assert (said.held, said.zero, said.absent) == (5, 1, 74)
    check(image.memory, bytes_of(PAGES), set(range(0x2000, 0x3000)), 71 * PAGE)
    assert states(image.memory, 72) == states(source.memory, 72)
    assert image.problems == ()


def test_an_excerpt_marks_the_rest_of_the_ram_as_excluded(opened: Opener) -> None:
    source = opened(Kdump(pages=PAGES).build())
    data, said = written(source.memory, np.array([70, 1, 3, 1], np.uint64))
    image = opened(data)
    assert (said.held, said.zero, said.absent) == (2, 1, 0)
    assert states(image.memory, 72) == "-pazaa" + "-" * 58 + "a-----p-"
    assert image.memory.read(70 * PAGE, PAGE) == page(70)


def test_zero_pages_of_an_uncompressed_source_share_one_page(opened: Opener) -> None:
    source = opened(elf([Load(pa=0, data=ZERO * 60 + page(1) + ZERO * 3)]))
    data, said = written(source.memory, ALL)
    assert (said.held, said.zero) == (1, 63)
    assert len(data) < 10 * PAGE
    assert states(opened(data).memory, 65) == "z" * 60 + "pzzz-"


def test_notes_and_vmcoreinfo_are_carried_over(opened: Opener) -> None:
    source = opened(elf([Load(pa=0, data=page(1))], NOTES))
    for vmcoreinfo in (None, source.vmcoreinfo):
        data, _ = written(source.memory, ALL, notes=source.notes, vmcoreinfo=vmcoreinfo)
        image = opened(data)
        assert image.notes == source.notes
        assert image.cpus == source.cpus
        assert image.vmcoreinfo == VMCOREINFO
        assert image.details["release"] == ("6.1.0-test" if vmcoreinfo else "(unknown)")
    data, _ = written(source.memory, ALL)
    image = opened(data)
    assert image.notes == ()
    assert image.vmcoreinfo is None


def test_vmcoreinfo_replaces_the_note_and_gives_phys_base(opened: Opener) -> None:
    source = opened(elf([Load(pa=0, data=page(1))], NOTES))
    data, _ = written(source.memory, ALL, notes=source.notes, vmcoreinfo=b"NUMBER(phys_base)=-4096\nA=1")
    image = opened(data)
    assert image.vmcoreinfo == b"NUMBER(phys_base)=-4096\nA=1"
    assert [note.name for note in image.notes].count("VMCOREINFO") == 1
    assert int.from_bytes(data[PAGE : PAGE + 8], "little", signed=True) == -4096


def test_many_notes_take_as_many_blocks_as_they_need(opened: Opener) -> None:
    source = opened(elf([Load(pa=0, data=page(1))]))
    notes = tuple(Note(name="CORE", type=1, desc=bytes([n]) * 337) for n in range(64))
    data, _ = written(source.memory, ALL, notes=notes, vmcoreinfo=VMCOREINFO)
    image = opened(data)
    assert image.notes[:-1] == notes
    assert image.memory.read(0, PAGE) == page(1)


def test_the_same_input_gives_the_same_bytes(opened: Opener) -> None:
    source = opened(elf([Load(pa=0, data=page(1))], NOTES))
    assert written(source.memory, ALL, notes=source.notes) == written(source.memory, ALL, notes=source.notes)


def test_names_of_the_machine_are_kept_and_cut_to_size(opened: Opener) -> None:
    source = opened(elf([Load(pa=0, data=page(1))]))
    names = {"nodename": "n" * 300, "machine": "x86_64", "version": "#1 \udcff\u202e"}
    data, _ = written(source.memory, ALL, utsname=names, dump_level=31)
    details = opened(data).details
    assert details["nodename"] == "n" * 64
    assert details["machine"] == "x86_64"
    assert details["dump level"] == "31"


def test_pages_of_ram_in_part_are_left_out(opened: Opener) -> None:
    source = opened(elf([Load(pa=0, data=page(1) + page(2, 0xC00))]))
    data, said = written(source.memory, ALL)
    assert said.held == 1
    assert states(opened(data).memory, 3) == "pa-"


def test_pages_found_damaged_while_writing_are_left_out(opened: Opener) -> None:
    kdump = Kdump(pages={n: page(n) for n in range(1, 4)})
    broken = bytearray(kdump.build())
    broken[kdump.descriptors_at + 24 + 12] = 0x20
    source = opened(bytes(broken))
    data, said = written(source.memory, ALL)
    assert (said.held, said.absent) == (2, 78)
    assert states(opened(data).memory, 5) == "-pap-"


def test_ranges_of_ram_may_be_given(opened: Opener) -> None:
    source = opened(elf([Load(pa=0, data=page(1)), Load(pa=0x100000, data=page(2))]))
    ranges = np.array([[0, 0x9000], [0xB000, 0xB001], [0x10000, 0x20000]], np.uint64)
    data, said = written(source.memory, np.arange(1 << 9, dtype=np.uint64), ram_ranges=ranges)
    assert said.held == 1
    assert opened(data).memory.ranges.tolist() == [[0, 0x9000], [0xB000, 0xC000], [0x10000, 0x20000]]


def test_addresses_without_end_are_refused(opened: Opener) -> None:
    source = opened(elf([Load(pa=(1 << 52) - PAGE, data=page(1))]))
    with pytest.raises(OutputError, match="32 TiB"):
        written(source.memory, ALL)


def test_an_overlay_can_be_written(opened: Opener) -> None:
    edited = Overlay(opened(Kdump(pages=PAGES).build()).memory)
    edited.write(0x1000, b"edited")
    edited.drop(4)
    image = opened(written(edited, ALL)[0])
    assert image.memory.read(0x1000, 6) == b"edited"
    assert states(image.memory, 6) == "-pazap"
