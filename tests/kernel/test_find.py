from __future__ import annotations

import re
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import ROOT, WHOLE, Edit, Sample, again, needs_symbol, with_memory

from vmaforensics.analysis import analyse_image
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.image.open import open_image
from vmaforensics.image.overlay import Overlay
from vmaforensics.image.placed import PAGE_SIZE
from vmaforensics.kernel import find
from vmaforensics.kernel.find import find_kernel
from vmaforensics.kernel.several import lives
from vmaforensics.kernel.symbols import vmcoreinfo
from vmaforensics.kernel.symbols.kallsyms import Kallsyms

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.analysis import Analysis
    from vmaforensics.kernel.kernel import Kernel


def pages_of_vmcoreinfo(kernel: Kernel) -> np.ndarray:
    """Page frames in which a scan finds the text."""
    found = [int(info.source.rpartition(" ")[2], 16) for info in vmcoreinfo.scan(kernel.memory)]
    return np.array(sorted({address // PAGE_SIZE for address in found}), np.uint64)


def test_the_release_is_what_uname_said(any_kernel: Sample) -> None:
    said = any_kernel.truth["run/log/uname"].decode().split()
    assert any_kernel.analysis.kernel.identity.release in said


def test_the_banner_is_what_proc_version_said(any_kernel: Sample) -> None:
    assert any_kernel.analysis.kernel.identity.banner == any_kernel.truth["proc/version"].decode().strip()


def test_the_build_id_is_that_of_the_notes_in_sysfs(any_kernel: Sample) -> None:
    notes = any_kernel.truth["sys/kernel/notes"]
    at = notes.index(b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0") + 16
    assert any_kernel.analysis.kernel.identity.build_id == notes[at : at + 20].hex()


def test_the_kaslr_offset_moves_the_text_to_where_it_was(any_kernel: Sample) -> None:
    text = next(
        int(line.split()[0], 16)
        for line in any_kernel.truth["proc/kallsyms"].decode().splitlines()
        if line.endswith(" _text")
    )
    offset = any_kernel.analysis.kernel.identity.kaslr_offset
    assert offset is not None
    assert 0xFFFFFFFF_81000000 + offset == text


def test_five_levels_are_told_by_the_page_tables_not_by_the_name(any_kernel: Sample) -> None:
    assert any_kernel.analysis.kernel.identity.levels == (5 if "la57" in any_kernel.name else 4)


def test_the_note_and_the_scan_give_the_same_vmcoreinfo(any_kernel: Sample) -> None:
    kernel = any_kernel.analysis.kernel
    assert kernel.vmcoreinfo is not None
    assert kernel.vmcoreinfo.source.startswith("note")
    scanned = list(vmcoreinfo.scan(kernel.memory))
    if not scanned:
        pytest.skip("this excerpt does not hold the page the text lies in")
    # The note is made before the crash time is known and once more at the crash, in the page itself.
    want = {key: value for key, value in kernel.vmcoreinfo.values.items() if key != "CRASHTIME"}
    for info in scanned:
        assert {key: value for key, value in info.values.items() if key != "CRASHTIME"} == want


def test_a_scan_finds_the_note_where_sysfs_says_it_lies(any_kernel: Sample) -> None:
    kernel = any_kernel.analysis.kernel
    place = re.match(r"0x([0-9a-f]+) ", any_kernel.truth["sys/kernel/vmcoreinfo"].decode())
    assert place is not None
    note = int(place[1], 16)
    if not kernel.memory.gather(np.array([note], np.uint64), 64)[1][0]:
        pytest.skip("this excerpt does not hold the note")
    # Its header has 24 bytes in front of the text: three words, and the name VMCOREINFO padded to 12.
    scanned = {int(info.source.rpartition(" ")[2], 16) for info in vmcoreinfo.scan(kernel.memory)}
    assert note + 24 in scanned


def test_without_any_vmcoreinfo_the_symbol_table_shows_where_the_kernel_lies(whole_kernel: Sample) -> None:
    needs_symbol(whole_kernel, "phys_base")
    clean = whole_kernel.analysis
    hidden = Overlay(clean.image.memory)
    hidden.drop(pages_of_vmcoreinfo(clean.kernel))
    kernel = find_kernel(with_memory(clean.image, hidden, vmcoreinfo=None))
    assert kernel.vmcoreinfo is None
    assert any("VMCOREINFO" in text and "symbol table" in text for text in kernel.identity.problems)
    ours, theirs = kernel.identity, clean.kernel.identity
    for name in ("release", "banner", "levels", "isolation", "kaslr_offset", "phys_base", "types_source"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.build_id in (theirs.build_id, None)  # an excerpt need not hold the kernel's own notes
    assert isinstance(kernel.symbols, Kallsyms)
    assert isinstance(clean.kernel.symbols, Kallsyms)
    assert list(kernel.symbols.items())[::997] == list(clean.kernel.symbols.items())[::997]
    assert np.array_equal(kernel.space.runs.to_structured(), clean.kernel.space.runs.to_structured())


def test_without_the_note_the_text_in_memory_is_found(any_kernel: Sample) -> None:
    clean = any_kernel.analysis
    if not len(pages_of_vmcoreinfo(clean.kernel)):
        pytest.skip("this excerpt does not hold the page the text lies in")
    kernel = find_kernel(with_memory(clean.image, clean.image.memory, vmcoreinfo=None))
    assert kernel.identity.vmcoreinfo_source is not None
    assert kernel.identity.vmcoreinfo_source.startswith("physical memory at ")
    assert kernel.identity.phys_base == clean.kernel.identity.phys_base
    assert kernel.identity.problems == []


def test_a_raw_image_of_a_machine_without_the_note_is_understood() -> None:
    path = ROOT / "build/images/debian-6.1-noinfo.raw"
    if not path.exists():
        pytest.skip(f"{path.name} has not been made here")
    analysis = analyse_image(path)
    assert analysis.image.vmcoreinfo is None
    assert analysis.kernel.identity.problems == []
    assert len(analysis.views.tasks) > 100


def test_a_stale_vmcoreinfo_does_not_lead_astray(either_sample: Sample) -> None:
    # What an earlier kernel left: the same text with another place.
    needs_symbol(either_sample, "phys_base")
    clean = either_sample.analysis
    info = clean.kernel.vmcoreinfo
    assert info is not None
    stale = re.sub(rb"NUMBER\(phys_base\)=-?\d+", b"NUMBER(phys_base)=4096", info.text)
    kernel = find_kernel(with_memory(clean.image, clean.image.memory, vmcoreinfo=stale))
    assert kernel.identity.phys_base == clean.kernel.identity.phys_base
    assert kernel.identity.release == clean.kernel.identity.release


def test_a_note_with_a_wrong_phys_base_is_not_believed(any_kernel: Sample) -> None:
    """The banner is not where it says, 16 MiB off; what is in memory, or the symbol table, is right."""
    clean = any_kernel.analysis
    text = clean.image.vmcoreinfo
    if text is None:
        pytest.skip("the image has no note")
    right = re.search(rb"NUMBER\(phys_base\)=(-?\d+)", text)
    assert right is not None
    wrong = text.replace(right.group(), b"NUMBER(phys_base)=%d" % (int(right.group(1)) + (16 << 20)))
    kernel = find_kernel(with_memory(clean.image, clean.image.memory, vmcoreinfo=wrong))
    assert kernel.identity.phys_base == clean.kernel.identity.phys_base
    assert "not fit the kernel" in "".join(kernel.identity.problems)


@pytest.mark.parametrize("text", [b"", b"OSRELEASE=6.1\n", b"\xff\xfe=\x01\n=\n\n\n", b"NUMBER(phys_base)=many\n"])
def test_a_note_that_says_nothing_is_passed_over(maple_sample: Sample, text: bytes) -> None:
    clean = maple_sample.analysis
    needs_symbol(maple_sample, "phys_base")
    kernel = find_kernel(with_memory(clean.image, clean.image.memory, vmcoreinfo=text))
    assert kernel.identity.phys_base == clean.kernel.identity.phys_base


def test_a_page_table_root_that_is_not_held_is_replaced_by_a_process(whole_kernel: Sample) -> None:
    needs_symbol(whole_kernel, "page_offset_base")
    edit = Edit(whole_kernel.analysis)
    root = edit.clean.kernel.symbols.get("init_top_pgt")
    assert root is not None
    edit.drop(root)
    found = edit.again()
    assert "a process's page tables" in found.kernel.identity.translation_source
    assert any("page-table root" in text for text in found.kernel.identity.problems)
    vmas, clean = found.views.vmas, edit.clean.views.vmas
    assert np.array_equal(vmas.vma, clean.vma)
    assert np.array_equal(vmas.ok, clean.ok)


def test_a_kernel_without_type_information_is_named_in_the_error(either_sample: Sample) -> None:
    edit = Edit(either_sample.analysis)
    symbols = edit.clean.kernel.symbols
    start, stop = symbols.get("__start_BTF"), symbols.get("__stop_BTF")
    assert start is not None
    assert stop is not None
    edit.drop(start, stop - start)
    with pytest.raises(KernelNotFoundError, match="no type information for kernel") as caught:
        edit.again()
    assert edit.clean.kernel.identity.release in str(caught.value)


def test_the_pages_of_another_machine_are_no_kernel(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("noise") / "noise.raw"
    path.write_bytes(np.random.default_rng(3).integers(0, 256, 2 << 20, np.uint8).tobytes())
    with pytest.raises(KernelNotFoundError, match="no Linux kernel in"):
        find_kernel(open_image(path))


def test_an_acquisition_that_failed_half_way_is_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The first header of a LiME file, and 0.6 MiB of the range that it announces."""
    path = tmp_path_factory.mktemp("half") / "half.lime"
    header = struct.pack("<IIQQ8x", 0x4C694D45, 1, 0x100000, 0x100000 + (511 << 20) - 1)
    path.write_bytes(header + np.random.default_rng(3).integers(1, 256, 629_146, np.uint8).tobytes())
    with pytest.raises(KernelNotFoundError, match=r"holds 0\.6 of the 511 MiB that its headers promise"):
        find_kernel(open_image(path))


def test_a_banner_alone_is_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("banner") / "arm.raw"
    banner = b"Linux version 6.6.1-arm64 (builder@host) #1 SMP PREEMPT"
    path.write_bytes(bytes(4096) + banner.ljust(4096, b"\0") + bytes(2 << 20))
    with pytest.raises(KernelNotFoundError, match=r"holds the banner 'Linux version 6\.6\.1-arm64"):
        find_kernel(open_image(path))


@pytest.mark.parametrize("compiler", ["aarch64-linux-gnu-gcc-14 (Debian 14.2)", "s390x-linux-gnu-gcc-14"])
def test_a_banner_of_another_machine_is_told_by_its_compiler(compiler: str, tmp_path: Path) -> None:
    path = tmp_path / "other.raw"
    banner = f"Linux version 6.12.1 (builder@host) ({compiler} 14.2.0) #1 SMP".encode()
    path.write_bytes(bytes(4096) + banner.ljust(4096, b"\0") + bytes(2 << 20))
    with pytest.raises(KernelNotFoundError, match=rf"dump of another machine \({compiler.split('-')[0]}\)"):
        find_kernel(open_image(path))


def test_a_raw_file_that_ends_before_its_kernel_is_told(either_sample: Sample, tmp_path: Path) -> None:
    clean = either_sample.analysis
    assert clean.kernel.vmcoreinfo is not None
    path = tmp_path / "cut.raw"
    path.write_bytes(bytes(4096) + clean.kernel.vmcoreinfo.text.ljust(4096, b"\0") + bytes(2 << 20))
    text = clean.kernel.symbols.get("_stext")
    assert text is not None
    place = text - clean.kernel.arch.image_offset_of(clean.kernel.variable("phys_base", 8) or 0)
    with pytest.raises(KernelNotFoundError, match=rf"at physical {place:#x}, .* ends at 0x202000; it was cut short"):
        find_kernel(open_image(path))


def test_the_first_mib_of_dev_mem_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mem"
    path.write_bytes(np.random.default_rng(3).integers(0, 256, 1 << 20, np.uint8).tobytes())
    with pytest.raises(KernelNotFoundError, match=r"in its 1 MiB of memory; .*/dev/mem gives no more"):
        find_kernel(open_image(path))


def test_found_again_it_is_the_same(maple_sample: Sample) -> None:
    clean = maple_sample.analysis
    other = again(clean, clean.image.memory)
    assert other.kernel.identity == clean.kernel.identity
    assert np.array_equal(other.views.vmas.to_structured(), clean.views.vmas.to_structured())
    assert other.findings == clean.findings


def test_a_kernel_lives_if_its_list_of_tasks_leads_on(either_sample: Sample) -> None:
    """One link that does not agree is a list that was torn; in memory of a kernel before this one, hardly one does."""
    clean = either_sample.analysis
    assert lives(clean.kernel)
    init = clean.kernel.symbols.get("init_task")
    assert init is not None
    edit = Edit(clean)
    first = edit.get(edit.at("task_struct", init, "tasks.next"))
    edit.put(first + 8, first)
    assert lives(find_kernel(edit.image()))
    edit.put(first, first)
    assert not lives(find_kernel(edit.image()))


def test_a_kernel_that_is_not_there_cannot_be_chosen(either_sample: Sample) -> None:
    with pytest.raises(KernelNotFoundError, match=r"1 kernel in .*, and not 2"):
        find_kernel(replace(either_sample.analysis.image, vmcoreinfo=None, kernel=2))


def test_of_two_kernels_the_one_that_lives_is_taken() -> None:
    """What a reboot leaves: image, symbols and types of another kernel, and its VMCOREINFO in a lower page."""
    names = {sample.name: sample for sample in WHOLE}
    if "debian-6.1" not in names:
        pytest.skip("needs the image debian-6.1 of the recipe")
    living = names["debian-6.1"].analysis
    others = [names[name].analysis for name in ("debian-7.3", "debian-6.12", "debian-5.10") if name in names]
    first, last = _place(living)
    apart = [other for other in others if _place(other)[1] <= first or last <= _place(other)[0]]
    if not apart:
        pytest.skip("needs an image of the recipe whose kernel lies elsewhere than that of debian-6.1")
    dead = apart[0]
    first, last = _place(dead)
    overlay = Overlay(living.image.memory)
    overlay.write(first, dead.image.memory.read(first, last - first))
    assert dead.kernel.vmcoreinfo is not None
    overlay.write(0x3000, dead.kernel.vmcoreinfo.text.ljust(4096, b"\0")[:4096])
    both = replace(living.image, memory=overlay, vmcoreinfo=None)
    release = dead.kernel.identity.release
    assert find_kernel(both).identity.release == living.kernel.identity.release
    assert f"another kernel lies in memory, {release}" in "".join(find_kernel(both).identity.problems)
    assert find_kernel(replace(both, kernel=1)).identity.release == release


def _place(analysis: Analysis) -> tuple[int, int]:
    """Physical addresses of the first byte of a kernel's image and of that behind it."""
    kernel = analysis.kernel
    offset = kernel.arch.image_offset_of(kernel.variable("phys_base", 8) or 0)
    first, last = (int(kernel.symbols.get(name) or 0) - offset for name in ("_text", "_end"))
    return first, last


def test_a_flood_of_planted_notes_costs_no_more_than_some_searches(
    maple_sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = maple_sample.analysis
    assert clean.kernel.vmcoreinfo is not None
    texts = [
        re.sub(rb"(?<=NUMBER\(phys_base\)=)-?\d+", b"%d" % (number << 21), clean.kernel.vmcoreinfo.text)
        for number in range(40)
    ]
    searched: list[int] = []
    monkeypatch.setattr(find, "other_notes", lambda *_: (vmcoreinfo.parse(text, "memory") for text in texts))
    monkeypatch.setattr(find, "names_fit", lambda *_: True)
    monkeypatch.setattr(find, "locate_by", lambda *arguments: searched.append(arguments[-1]))
    assert find.find_kernel(replace(clean.image)).identity.release == clean.kernel.identity.release
    assert len(searched) == len(set(searched)) == 8


def test_an_acquisition_that_ended_within_its_first_range_is_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("early") / "ram.lime"
    # LiME writes the range below 640 KiB first; nothing in its file tells of the ranges that were to follow.
    path.write_bytes(struct.pack("<IIQQ8x", 0x4C694D45, 1, 0x1000, 0x96FFF) + bytes(range(1, 256)) * 2410)
    with pytest.raises(KernelNotFoundError, match=r"holds 0\.6 MiB of memory, less than any machine has"):
        find_kernel(open_image(path))
