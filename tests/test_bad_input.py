"""Pages that are not in the dump, files that are no images, structures that lead in circles, random damage.

Whatever is missing is named, costs nothing else, and is never taken for tampering.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import PAGE, Edit, Sample, again_from_views, kernel_on, leader, needs_symbol, with_memory
from tamper.edits import list_cycle, maple_node_self_pointing, tree_cycle
from work import analysis_budget

from vmaforensics.analysis import Analysis, analyse_image
from vmaforensics.errors import KernelNotFoundError, VmaForensicsError
from vmaforensics.image.overlay import Overlay
from vmaforensics.kernel.symbols import kallsyms_tables, vmcoreinfo, window
from vmaforensics.report.document.build import build_document, decode
from vmaforensics.report.document.document import encode
from vmaforensics.report.formats.text import render_text
from vmaforensics.views.gather import gather_views

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vmaforensics.report.document.document import Document

Rows = dict[int, list[tuple[object, ...]]]


def regions(analysis: Analysis, *, names: bool = True) -> Rows:
    """What every address space holds, by the address of its ``mm_struct``."""
    views = analysis.views
    rows = views.union
    at = views.vma_rows(rows.vma)
    vmas = views.vmas.take(at)
    found: Rows = {}
    columns = [column.tolist() for column in (vmas.vma, vmas.start, vmas.end, vmas.flags, vmas.pgoff)]
    columns.append([views.names[row] for row in at.tolist()] if names else [None] * len(at))
    for mm, *row in zip(rows.mm.tolist(), *columns, strict=True):
        found.setdefault(mm, []).append(tuple(row))
    return found


def accusations(analysis: Analysis) -> set[tuple[str, int]]:
    """Rule and process of every finding above info."""
    return {(finding.rule.id, finding.pid) for finding in analysis.findings if finding.severity.value != "info"}


def problems(document: Document) -> list[str]:
    """What could not be assessed, as a report prints it."""
    return [f"{item.what}: {item.why}" for item in document.not_assessed]


def check(clean: Analysis, hurt: Analysis, victims: set[int], sentence: str, *, names: bool = True) -> None:
    """``hurt`` names what is missing, accuses nobody of it, and reports all but ``victims`` as before."""
    document, known = build_document(hurt), set(problems(build_document(clean)))
    new = [problem for problem in problems(document) if problem not in known]
    assert any(sentence in finding for finding in new), new
    assert accusations(hurt) <= accusations(clean)
    before, after = regions(clean, names=names), regions(hurt, names=names)
    assert {mm: rows for mm, rows in after.items() if mm not in victims} == {
        mm: rows for mm, rows in before.items() if mm not in victims
    }
    assert decode(encode(document)) == document
    assert render_text(document)


def page_of(address: int) -> int:
    return address // PAGE


def touching(addresses: np.ndarray, size: int, page: int) -> np.ndarray:
    """Which structures of ``size`` bytes have a byte on a page?"""
    low, high = addresses // np.uint64(PAGE), (addresses + np.uint64(size - 1)) // np.uint64(PAGE)
    return (low <= page) & (high >= page)


# Pages of structures ------------------------------------------------------------------------------------


def test_a_lost_page_of_maple_nodes_costs_only_those_trees(maple_sample: Sample) -> None:
    edit = Edit(maple_sample.analysis)
    nodes = edit.clean.views.maple_nodes
    address = int(nodes.address[np.flatnonzero(nodes.leaf & (nodes.parent >= 0))[40]])
    edit.drop(address)
    victims = set(nodes.mm[touching(nodes.address, 256, page_of(address))].tolist())
    assert victims
    check(edit.clean, again_from_views(edit.clean, edit.overlay), victims, "maple tree of the address space")


def test_a_lost_page_of_vmas_costs_only_those_address_spaces(either_sample: Sample) -> None:
    edit = Edit(either_sample.analysis)
    vmas = edit.clean.views.vmas
    address = int(vmas.vma[len(vmas) // 3])
    edit.drop(address)
    size = edit.clean.kernel.sizeof("vm_area_struct")
    lost = vmas.take(touching(vmas.vma, size, page_of(address)))
    hurt = again_from_views(edit.clean, edit.overlay)
    check(edit.clean, hurt, set(lost.mm.tolist()), "not in the dump")
    # The VMAs next to the lost ones are still shown where an index leads to them.
    kept = {row[0] for rows in regions(hurt).values() for row in rows}
    if edit.clean.views.maple is not None:
        assert set(vmas.vma.tolist()) == kept


def test_a_lost_page_of_files_costs_only_names(either_sample: Sample) -> None:
    edit = Edit(either_sample.analysis)
    files = edit.clean.views.files
    assert files is not None
    address = int(files.rows.file[len(files.rows) // 2])
    edit.drop(address)
    hurt = again_from_views(edit.clean, edit.overlay)
    check(edit.clean, hurt, set(), f"files: {address & -PAGE:#x}"[:-3], names=False)
    lost = touching(files.rows.file, edit.clean.kernel.sizeof("file"), page_of(address))
    lost_files = set(files.rows.file[lost].tolist())
    before, after = edit.clean.views, hurt.views
    for row, file in enumerate(before.vmas.file.tolist()):
        if file in lost_files:
            assert after.names[row] == b"?"
        else:
            assert after.names[row] == before.names[row]


def test_a_lost_dentry_costs_only_paths_through_it(either_sample: Sample) -> None:
    edit = Edit(either_sample.analysis)
    files = edit.clean.views.files
    assert files is not None
    wanted = next(row for row, path in enumerate(files.paths) if path and path.count(b"/") > 2)
    address = int(files.rows.dentry[wanted])
    edit.drop(address)
    hurt = again_from_views(edit.clean, edit.overlay)
    check(edit.clean, hurt, set(), "files: ", names=False)
    assert hurt.views.files is not None
    assert hurt.views.files.paths[wanted] is None
    told = [(old, new) for old, new in zip(files.paths, hurt.views.files.paths, strict=True) if old != new]
    assert all(new is None for _, new in told)
    assert len(told) < len(files.paths)


def test_a_lost_mm_struct_costs_only_that_process(either_sample: Sample) -> None:
    edit = Edit(either_sample.analysis)
    mms = edit.clean.views.mms.mm
    address = int(mms[len(mms) // 2])
    edit.drop(address)
    victims = set(mms[touching(mms, edit.clean.kernel.sizeof("mm_struct"), page_of(address))].tolist())
    hurt = again_from_views(edit.clean, edit.overlay)
    check(edit.clean, hurt, victims, f"of the address space {address:#x}")
    assert not hurt.views.mms.ok[hurt.views.mm_rows(np.array([address], np.uint64))[0]]


def test_a_lost_task_struct_costs_only_that_process(either_sample: Sample) -> None:
    edit = Edit(either_sample.analysis)
    tasks = edit.clean.views.tasks
    own = tasks.take(tasks.leader & (tasks.mm != 0))
    address = int(own.task[len(own) // 2])
    size = edit.clean.kernel.sizeof("task_struct")
    # The page with its links, so that the list breaks there.
    link = edit.at("task_struct", address, "tasks")
    edit.drop(link)
    lost = tasks.take(touching(tasks.task, size, page_of(link)))
    hurt = again_from_views(edit.clean, edit.overlay)
    check(edit.clean, hurt, set(lost.mm.tolist()), "task list")
    missing = set(tasks.pid.tolist()) - set(hurt.views.tasks.pid.tolist())
    assert missing <= set(tasks.pid[np.isin(tasks.tgid, lost.tgid)].tolist())


def test_a_lost_process_directory_of_pages_is_no_accusation(either_sample: Sample) -> None:
    edit = Edit(either_sample.analysis)
    pgd = int(edit.clean.views.mms.pgd[len(edit.clean.views.mms) // 2])
    if not edit.clean.kernel.space.gather(np.array([pgd], np.uint64), 8)[1][0]:
        pytest.skip("this excerpt does not hold page tables of processes")
    edit.drop(pgd)
    hurt = again_from_views(edit.clean, edit.overlay)
    check(edit.clean, hurt, set(), "page tables of the address space")


@pytest.mark.parametrize("seed", [0, 4, 8])
def test_pages_lost_at_random_are_no_accusation(either_sample: Sample, seed: int) -> None:
    clean = either_sample.analysis
    rng = np.random.default_rng(seed)
    views = clean.views
    pool = [views.vmas.vma, views.tasks.task, views.mms.mm, views.maple_nodes.address]
    edit = Edit(clean)
    for address in rng.choice(np.concatenate(pool), 6, replace=False).tolist():
        edit.drop(address)
    hurt = again_from_views(clean, edit.overlay)
    assert accusations(hurt) <= accusations(clean)
    assert len(build_document(hurt).not_assessed) > len(build_document(clean).not_assessed)


# Pages of the kernel's own records ------------------------------------------------------------------------


def test_without_vmcoreinfo_everything_is_still_reported(either_sample: Sample) -> None:
    needs_symbol(either_sample, "phys_base")
    clean = either_sample.analysis
    hidden = Overlay(clean.image.memory)
    for info in vmcoreinfo.scan(clean.image.memory):
        hidden.drop(int(info.source.rpartition(" ")[2], 16) // PAGE)
    hurt = analyse_image(with_memory(clean.image, hidden, vmcoreinfo=None))
    check(clean, hurt, set(), "kernel: VMCOREINFO is neither in the container nor in memory")


def test_without_the_root_of_the_page_tables_everything_is_still_reported(either_sample: Sample) -> None:
    needs_symbol(either_sample, "page_offset_base")
    edit = Edit(either_sample.analysis)
    edit.drop(needs_symbol(either_sample, "init_top_pgt"))
    check(edit.clean, edit.again(), set(), "kernel: the kernel's page-table root is not in the dump")


def test_types_that_are_lost_are_one_clear_sentence(either_sample: Sample) -> None:
    edit = Edit(either_sample.analysis)
    symbols = edit.clean.kernel.symbols
    start, stop = symbols.get("__start_BTF"), symbols.get("__stop_BTF")
    assert start is not None
    assert stop is not None
    edit.drop(start, stop - start)
    with pytest.raises(KernelNotFoundError) as caught:
        edit.again()
    text = str(caught.value)
    release = edit.clean.kernel.identity.release
    assert text.startswith(f"no type information for kernel {release}: its BTF cannot be used")
    assert "not in the dump" in text
    assert "\n" not in text


def test_without_the_last_page_of_the_types_the_rest_is_read(either_sample: Sample) -> None:
    """It holds names of types, the last ones."""
    edit = Edit(either_sample.analysis)
    stop = edit.clean.kernel.symbols.get("__stop_BTF")
    assert stop is not None
    edit.drop(stop - 1)
    again = edit.again()
    assert len(again.views.vmas) == len(edit.clean.views.vmas)
    assert any("BTF" in problem for problem in again.kernel.identity.problems)


def tables_of(sample: Sample) -> tuple[int, kallsyms_tables.Tables]:
    """Physical address of the window around the symbol tables, and where in it they lie."""
    kernel = sample.analysis.kernel
    stext = kernel.symbols.get("_stext")
    assert stext is not None
    found = window.symbols_from(kernel.memory, stext - kernel.arch.image_start + kernel.identity.phys_base, kernel.arch)
    assert found is not None
    return found[0].pa, found[1]


@pytest.mark.parametrize("part", [0.02, 0.7])
def test_a_lost_page_of_symbol_names_costs_only_those_symbols(either_sample: Sample, part: float) -> None:
    clean = either_sample.analysis
    pa, tables = tables_of(either_sample)
    hidden = Overlay(clean.image.memory)
    hidden.drop((pa + tables.names + int(part * (tables.markers - tables.names))) // PAGE)
    hurt = analyse_image(with_memory(clean.image, hidden))
    check(clean, hurt, set(), "kernel symbols lie on pages that are not in the dump", names=False)
    assert set(hurt.kernel.symbols.items()) < set(clean.kernel.symbols.items())  # type: ignore[attr-defined]


@pytest.mark.parametrize("part", [0.3, 0.97])
def test_a_lost_page_of_symbol_addresses_gives_no_wrong_address(either_sample: Sample, part: float) -> None:
    clean = either_sample.analysis
    pa, tables = tables_of(either_sample)
    hidden = Overlay(clean.image.memory)
    hidden.drop((pa + tables.offsets + int(part * 4 * tables.count)) // PAGE)
    hurt = analyse_image(with_memory(clean.image, hidden))
    check(clean, hurt, set(), "kernel symbols lie on pages that are not in the dump", names=False)
    assert set(hurt.kernel.symbols.items()) < set(clean.kernel.symbols.items())  # type: ignore[attr-defined]


def test_without_the_token_table_the_lists_are_still_walked(either_sample: Sample) -> None:
    clean = either_sample.analysis
    pa, tables = tables_of(either_sample)
    hidden = Overlay(clean.image.memory)
    hidden.drop((pa + tables.token_table) // PAGE)
    hidden.drop((pa + tables.token_index) // PAGE)
    try:
        hurt = analyse_image(with_memory(clean.image, hidden))
    except KernelNotFoundError as error:
        assert "symbol table (kallsyms)" in str(error) or "type information" in str(error)
        assert "\n" not in str(error)
        # The types must lie in one whole piece of the image, or this kernel cannot be read without symbols.
        assert "BTF" in str(error)
        return
    told = hurt.kernel.identity.problems
    assert any("kallsyms" in problem or "__start_BTF" in problem for problem in told), told
    assert len(hurt.views.vmas) == len(clean.views.vmas)


# Circles -------------------------------------------------------------------------------------------------


def bounded(sample: Sample, overlay: Overlay) -> Analysis:
    with analysis_budget():
        found = again_from_views(sample.analysis, overlay)
        render_text(build_document(found))
    return found


@pytest.mark.parametrize("edit", [list_cycle, tree_cycle], ids=lambda edit: edit.__name__)
def test_circles_of_the_list_and_the_tree_end(list_sample: Sample, edit: Callable[[Edit], object]) -> None:
    copy = Edit(list_sample.analysis)
    edit(copy)
    assert "LINK" in str([finding.rule.id for finding in bounded(list_sample, copy.overlay).findings])


def test_a_maple_node_that_leads_to_itself_ends(maple_sample: Sample) -> None:
    copy = Edit(maple_sample.analysis)
    label = maple_node_self_pointing(copy)
    assert label.pid in {finding.pid for finding in bounded(maple_sample, copy.overlay).findings}


@pytest.mark.parametrize("to", ["itself", "the one before", "the first"])
def test_a_task_list_that_leads_in_a_circle_ends_and_is_followed_backwards(either_sample: Sample, to: str) -> None:
    edit = Edit(either_sample.analysis)
    tasks = edit.clean.views.tasks
    leaders = tasks.take(tasks.leader)
    base = edit.clean.kernel.offset("task_struct", "tasks")
    order = leaders.sort_by(leaders.start).task.tolist()
    here = order[len(order) // 2]
    target = {"itself": here, "the one before": order[len(order) // 2 - 1], "the first": order[0]}[to]
    edit.put(edit.at("task_struct", here, "tasks.next"), target + base)
    found = bounded(either_sample, edit.overlay)
    assert set(leaders.pid.tolist()) <= set(found.views.tasks.pid.tolist())
    assert "a link of the task list" in str([finding.title for finding in found.findings])


def test_processes_between_two_breaks_of_the_task_list_are_found_by_their_pids(either_sample: Sample) -> None:
    edit = Edit(either_sample.analysis)
    tasks = edit.clean.views.tasks
    leaders = tasks.take(tasks.leader)
    order = leaders.sort_by(leaders.start).task.tolist()
    edit.put(edit.at("task_struct", order[20], "tasks.next"), 0)
    edit.put(edit.at("task_struct", order[90], "tasks.prev"), 0x1234)
    found = bounded(either_sample, edit.overlay)
    rows = found.views.tasks.take(found.views.tasks.leader)
    assert rows.pid.tolist() == leaders.pid.tolist()
    assert regions(found) == regions(edit.clean)
    document = build_document(found)
    assert [process.pid for process in document.processes] == [
        process.pid for process in build_document(edit.clean).processes
    ]
    assert len(document.findings) < 20
    plain = gather_views(kernel_on(edit.clean.kernel, edit.overlay), wanted=())  # as ``maps`` reads them
    assert plain.tasks.take(plain.tasks.leader).pid.tolist() == leaders.pid.tolist()
    assert np.isin(leaders.mm[leaders.mm != 0], plain.mms.mm).all()


def test_a_task_whose_mm_is_something_else_costs_no_view(either_sample: Sample) -> None:
    edit = Edit(either_sample.analysis)
    tasks = edit.clean.views.tasks
    task = int(tasks.task[tasks.leader & (tasks.mm != 0)][10])
    foreign = int(edit.clean.views.vmas.vma[0])
    edit.put(edit.at("task_struct", task, "mm"), foreign)
    found = bounded(either_sample, edit.overlay)
    assert found.views.sources is not None
    assert not [text for text in found.kernel.identity.problems if "internal error" in text]
    assert foreign not in found.views.mms.mm


def test_a_thread_list_that_leads_in_a_circle_ends(either_sample: Sample) -> None:
    edit = Edit(either_sample.analysis)
    tasks = edit.clean.views.tasks
    thread = tasks.take(~tasks.leader)
    task = int(thread.task[0])
    base = edit.clean.kernel.offset("task_struct", "thread_node")
    edit.put(edit.at("task_struct", task, "thread_node.next"), task + base)
    found = bounded(either_sample, edit.overlay)
    assert int(thread.pid[0]) in found.views.tasks.pid.tolist()
    assert "a link of the task list" in str([finding.title for finding in found.findings])


def test_page_tables_that_lead_to_themselves_end(either_sample: Sample) -> None:
    edit = Edit(either_sample.analysis)
    pgd = int(edit.clean.views.mms.pgd[len(edit.clean.views.mms) // 2])
    own = edit.physical(pgd)
    for slot in range(256):
        edit.put(pgd + 8 * slot, own | 0x67)
    with analysis_budget():
        again_from_views(edit.clean, edit.overlay)


def test_a_kernel_half_that_leads_to_itself_ends(either_sample: Sample) -> None:
    edit = Edit(either_sample.analysis)
    root = needs_symbol(either_sample, "init_top_pgt")
    own = edit.physical(root)
    for slot in range(256, 500):
        edit.put(root + 8 * slot, own | 0x67)
    with analysis_budget():
        try:
            edit.again()
        except VmaForensicsError as error:
            assert "\n" not in str(error)


# Random damage --------------------------------------------------------------------------------------------

# A few per run; a campaign asks for more of them: VMAFORENSICS_VARIANTS=1000.
VARIANTS = int(os.environ.get("VMAFORENSICS_VARIANTS", "5"))


def damage(sample: Sample, seed: int) -> Overlay:
    """A copy with random words in the structures of VMAs, nodes, tasks, files and address spaces."""
    clean = sample.analysis
    kernel, views = clean.kernel, clean.views
    rng = np.random.default_rng(seed)
    edit = Edit(clean)
    assert views.files is not None
    kinds = [
        (views.vmas.vma, kernel.sizeof("vm_area_struct")),
        (views.maple_nodes.address, 256),
        (views.tasks.task, kernel.sizeof("task_struct")),
        (views.tasks.signal, kernel.sizeof("signal_struct")),
        (views.mms.mm, kernel.sizeof("mm_struct")),
        (views.files.rows.file, kernel.sizeof("file")),
        (views.files.rows.dentry, kernel.sizeof("dentry")),
        (views.files.rows.inode, kernel.sizeof("inode")),
        (views.files.rows.mnt, kernel.sizeof("vfsmount")),
    ]
    pointers = np.concatenate([addresses for addresses, _ in kinds])
    for _ in range(int(rng.integers(1, 60))):
        addresses, size = kinds[rng.integers(len(kinds))]
        if not len(addresses):
            continue
        address = int(rng.choice(addresses)) + 8 * int(rng.integers(size // 8))
        old = int(kernel.words(np.array([address], np.uint64), 1)[0][0, 0])
        value = (
            int(rng.integers(1 << 63)) << 1,
            0,
            (1 << 64) - 1,
            int(rng.choice(pointers)) + int(rng.choice([0, 1, 4, 8, 0x1C, 0x6E])),
            old ^ 1 << int(rng.integers(64)),
            old + 8 * int(rng.integers(-4, 5)),
            4096 * int(rng.integers(1 << 35)),
            address,
        )[rng.integers(8)]
        if kernel.space.gather(np.array([address], np.uint64), 8)[1][0]:
            edit.put(address, value)
        if rng.random() < 0.05:
            edit.drop(address)
    return edit.overlay


# One that once was too much: a total of more pages than a signed number holds.
REGRESSIONS = (90,)


def test_random_damage_is_survived(either_sample: Sample) -> None:
    done = 0
    for seed in (*range(VARIANTS), *REGRESSIONS):
        try:
            found = again_from_views(either_sample.analysis, damage(either_sample, seed))
        except VmaForensicsError:
            continue
        except Exception as error:
            pytest.fail(f"seed {seed}: {type(error).__name__}: {error}")
        document = build_document(found)
        assert json.loads(encode(document))["schema"]["name"] == "vmaforensics-report"
        assert decode(encode(document)) == document
        assert "\x1b" not in render_text(document, all_regions=True)
        done += 1
    assert done > VARIANTS // 2


# Files that are no images -----------------------------------------------------------------------------------


def run(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "vmaforensics", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (b"", 10, b"is empty"),
        (b"hello, this is a text file\n" * 100_000, 11, b"is a text file"),
        (b"PAGEDU64" + bytes(3 << 20), 11, b"a Windows crash dump"),
        (b"MZ\x90\0" + bytes(3 << 20), 12, b"no Linux kernel in"),
        (bytes(4 << 20), 12, b"no Linux kernel in"),
        (np.random.default_rng(9).bytes(4 << 20), 12, b"no Linux kernel in"),
        (b"\x7fELF" + bytes(3 << 20), 11, b""),
        (b"KDUMP   " + bytes(3 << 20), 11, b""),
        (b"EMiL" + b"\xff" * (3 << 20), 11, b""),
        (b"\0\x01\x02", 11, b"too few"),
    ],
    ids=["empty", "text", "windows", "program", "zeros", "noise", "elf", "kdump", "lime", "three bytes"],
)
def test_a_file_that_is_no_image_is_one_sentence(tmp_path: Path, content: bytes, code: int, says: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    done = run("report", path)
    assert done.returncode == code, done.stderr
    assert done.stdout == b""
    assert done.stderr.startswith(b"vmaforensics: ")
    assert done.stderr.count(b"\n") == 1
    assert says in done.stderr
    assert str(path).encode() in done.stderr


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    done = run("report", tmp_path / "none")
    assert done.returncode == 10
    assert done.stderr.count(b"\n") == 1
    assert b"no such file" in done.stderr


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    done = run("report", tmp_path)
    assert done.returncode == 10
    assert b"is a directory" in done.stderr


def test_a_name_with_control_characters_is_not_sent_to_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "bad\x1b[2J\nname"
    path.write_bytes(bytes(2 << 20))
    done = run("report", path)
    assert done.returncode == 12
    assert b"\x1b" not in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("keep", [0.3, 0.95])
def test_a_truncated_image_is_told_of(maple_sample: Sample, tmp_path: Path, keep: float) -> None:
    raw = maple_sample.image_path.read_bytes()[: 1 << 26]
    path = tmp_path / "cut.kdump"
    path.write_bytes(raw[: int(len(raw) * keep)])
    done = run("report", path)
    assert done.returncode in (0, 11, 12), done.stderr
    if done.returncode == 0:
        assert b"truncated" in done.stdout or b"not in the dump" in done.stdout
    else:
        assert done.stderr.count(b"\n") == 1


def test_a_process_that_is_lost_is_still_listed(either_sample: Sample) -> None:
    edit = Edit(either_sample.analysis)
    row = leader(edit.clean, 1)
    edit.drop(int(row.mm))
    document = build_document(again_from_views(edit.clean, edit.overlay))
    one = next(process for process in document.processes if process.pid == 1)
    assert one.mm == hex(int(row.mm))
    assert one.regions == []
    assert not any(view.complete for view in one.views)
