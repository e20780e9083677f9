"""The recipe of guests at work: what can be tested without one."""

from __future__ import annotations

import io
import sys
import tarfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import ROOT

from vmaforensics.image.open import open_image

sys.path.insert(0, str(ROOT / "samples" / "recipe"))

import hidings
import images
import make_work
import mix_pages
import site_at_work
import slices
import storms

if TYPE_CHECKING:
    from pathlib import Path

IOMEM = b"""00000000-00000fff : Reserved
00001000-0009fbff : System RAM
000f0000-000fffff : System ROM
00100000-001fffff : System RAM
  00140000-0017ffff : Kernel code
"""


def test_lime_takes_whole_pages_of_system_ram() -> None:
    assert slices.ram(IOMEM) == [(0x1000, 0x9F000), (0x100000, 0x200000)]


def test_slices_end_at_multiples_of_their_size() -> None:
    parts = slices.pieces([(0x1000, 0x9000), (0x10000, 0x12000)], 0x4000)
    assert parts == [(0x1000, 0x4000), (0x4000, 0x8000), (0x8000, 0x9000), (0x10000, 0x12000)]


def test_an_acquisition_is_an_image_and_says_when_each_slice_was_read(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    words = np.arange(0x200000 // 8, dtype="<u8")
    memory.write_bytes(words.tobytes())
    taken = slices.acquire(memory, IOMEM, 0.02, tmp_path / "out.lime", jiffies=0x100008)
    assert [(row.start, row.end) for row in taken] == slices.pieces(slices.ram(IOMEM))
    times = [moment for row in taken for moment in (row.began, row.ended)]
    assert times == sorted(times)
    assert {row.jiffies for row in taken} == {0x100008 // 8}
    held = open_image(tmp_path / "out.lime").memory
    data, ok = held.gather(np.array([0, 0x1000, 0x9F000, 0x1FFFF8], np.uint64), 8)
    assert ok.tolist() == [False, True, False, True]
    assert data.view("<u8")[ok].ravel().tolist() == [0x1000 // 8, 0x1FFFF8 // 8]


class Clock:
    """Time that passes in sleep alone."""

    now = 1000.0

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_slices_are_read_as_evenly_as_the_duration_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = tmp_path / "memory"
    memory.write_bytes(bytes(0x200000))
    monkeypatch.setattr(slices, "time", Clock())
    taken = slices.acquire(memory, IOMEM, 20.0, tmp_path / "out.lime", jiffies=0)
    done, total = 0, 0x19E000
    for row in taken:
        assert row.began == pytest.approx(1000 + 20 * done / total)
        done += row.end - row.start
    assert slices.whole(taken)["slices"][-1][:2] == [0x1C0000, 0x200000]  # type: ignore[index]


def test_every_process_with_decoys_is_read_from_the_console() -> None:
    lines = ["DECOY 231 awk-quiet-3 data-7f00 data-8f00 code-9f00.", "WORK-READY"]
    lines += ["DECOY 9 awk-storm-forks data-1000 code-2000.", "DECOY 10 awk-storm-ksm data-10"]  # torn
    lines += ["", "DECOY 512 redis-server data-3000 code-4000."]
    said = "\n".join(lines)
    assert hidings.announced(said) == {
        231: hidings.Decoys((0x7F00, 0x8F00), (0x9F00,)),
        9: hidings.Decoys((0x1000,), (0x2000,)),
        512: hidings.Decoys((0x3000,), (0x4000,)),
    }
    assert site_at_work.STORMS.findall(said) == [("9", "forks"), ("10", "ksm"), ("512", "redis-server")]


def record(path: Path, members: dict[str, bytes]) -> Path:
    """An archive as the guest writes it."""
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def test_what_rests_has_memory_and_is_neither_init_nor_the_one_that_looks(tmp_path: Path) -> None:
    members = {"capturing": b"77\n"}
    for pid, maps in ((1, b"x"), (2, b""), (12, b"x"), (77, b"x")):
        members |= {f"proc/{pid}/maps": maps, f"proc/{pid}/comm": b"name\n"}
    archive = record(tmp_path / "truth.tar", members)
    assert site_at_work.processes(archive) == {12: "name"}
    assert site_at_work.member(archive, "capturing") == b"77\n"


def test_every_storm_is_a_role_of_the_guest() -> None:
    roles = "".join((ROOT / f"samples/recipe/guest/{name}.c").read_text() for name in ("storms", "rare", "apart"))
    control = (ROOT / "samples/recipe/guest/control").read_text()
    for load in storms.LOADS.values():
        for name in load:
            assert f'{{"storm-{name}",' in roles or f"start_{name}()" in control
    # TASK_COMM_LEN is 16: the names of two storms must not be the same when cut.
    names = {f"awk-storm-{name}"[:15] for load in storms.LOADS.values() for name in load}
    assert len(names) == len({name for load in storms.LOADS.values() for name in load})


def test_a_guest_at_work_may_be_any_of_the_images_at_rest() -> None:
    work = storms.Work("6.1-la57")
    assert (work.package, work.cpu, work.name) == (images.PACKAGES["6.1"], images.FIVE_LEVELS, "debian-6.1-la57-work1")
    assert storms.Work("6.12-rt").package == ("trixie", images.RT)
    assert "pti=on" in storms.Work("6.1-pti").kernel_cmdline


def test_pages_of_two_images_are_mixed_as_the_manifest_says(tmp_path: Path) -> None:
    pages = 16
    for name, value in (("early", 1), ("late", 2)):
        (tmp_path / f"{name}.elf").write_bytes(lime(bytes([value]) * (pages * slices.PAGE)))
    late = mix_pages.sprinkled(pages, 0.5, 3, seed=4)
    early_memory, late_memory = (open_image(tmp_path / f"{name}.elf").memory for name in ("early", "late"))
    mix_pages.mix(early_memory, late_memory, late, tmp_path / "mixed.lime")
    data, ok = open_image(tmp_path / "mixed.lime").memory.gather(
        np.arange(0, pages * slices.PAGE, slices.PAGE, dtype=np.uint64), slices.PAGE
    )
    assert ok.all()
    assert (data == 1 + late[:, None]).all()
    for low, high, which in mix_pages.stretches(late):
        assert (late[low:high] == which).all()


def lime(data: bytes) -> bytes:
    """A LiME file of one range from 0."""
    return slices.LIME_HEADER.pack(slices.LIME_MAGIC, slices.LIME_VERSION, 0, len(data) - 1, 0) + data


def test_what_lime_wrote_is_cut_out_of_a_disk(tmp_path: Path) -> None:
    first = lime(b"a" * 5000)
    second = slices.LIME_HEADER.pack(slices.LIME_MAGIC, slices.LIME_VERSION, 0x100000, 0x100002, 0) + b"bcd"
    disk, out = tmp_path / "disk", tmp_path / "out.lime"
    disk.write_bytes(first + second + bytes(9000))
    slices.cut_out(disk, out)
    assert out.read_bytes() == first + second
    disk.write_bytes(bytes(9000))
    with pytest.raises(ValueError, match="no LiME file"):
        slices.cut_out(disk, out)


def test_a_guest_that_is_only_slow_has_not_complained() -> None:
    complaint = make_work.COMPLAINT.search
    assert not complaint("watchdog: BUG: soft lockup - CPU#0 stuck for 21s! [cat:1]")
    assert not complaint("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:")
    assert complaint("watchdog: BUG: soft lockup - CPU#0 stuck for 114s! [cat:1]")
    assert complaint("BUG: kernel NULL pointer dereference, address: 0000000000000010")
    assert complaint("BUG: Bad rss-counter state mm:1 type:MM_ANONPAGES val:7")


def test_a_guest_for_lime_has_no_secret_memory() -> None:
    # The last of several wins: a parameter of mm/secretmem.c, set in the order of the command line.
    words = storms.Work("6.1", lime=True).kernel_cmdline.split()
    assert [word for word in words if word.startswith("secretmem.")][-1] == "secretmem.enable=0"
    assert "secretmem.enable=0" not in storms.Work("6.1").kernel_cmdline


def test_the_cut_and_the_stretches_take_the_part_asked_for() -> None:
    assert mix_pages.cut(10, 0.3).tolist() == [False] * 3 + [True] * 7
    assert mix_pages.stretches(mix_pages.cut(10, 0.3)) == [[0, 3, 0], [3, 10, 1]]
    late = mix_pages.sprinkled(10_000, 0.25, 7, seed=1)
    assert len(late) == 10_000
    assert 0.7 < late.mean() < 0.8
    assert all((high - low) % 7 == 0 for low, high, _ in mix_pages.stretches(late)[:-1])
