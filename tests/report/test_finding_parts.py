"""What a finding carries besides its evidence: its VMA, the bytes it is about, and lines to check it by hand."""

from __future__ import annotations

import builtins
import importlib.util
import inspect
import re
from functools import cache
from typing import TYPE_CHECKING

import pytest
from support import SAMPLES, Edit, Sample, again_from_views, built, mm_of, rows_in
from tamper.edits import labelled, list_only, maple_slot_zeroed, tree_only, vma_of
from tamper.page_edits import exec_cleared_in_pte, ghost_page
from tamper.rmap_edits import anon_link_cut, file_link_cut, file_swapped
from tamper.slab_edits import area_erased, list_and_tree_unlinked, mm_decoy, task_off_both

from vmaforensics.checks.registry import all_rules
from vmaforensics.report.document.build import build_document
from vmaforensics.report.document.dumps import MOST, SIZE
from vmaforensics.report.document.hand_lines import BEGIN, STEPS, TOOLS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tamper.edits import Label

    from vmaforensics.analysis import Analysis
    from vmaforensics.report.document.findings import Finding, Hexdump

    Technique = Callable[[Edit], Label]

OF_ONE_AREA: tuple[Callable[[Edit], Label], ...] = (
    maple_slot_zeroed,
    list_only,
    tree_only,
    list_and_tree_unlinked,
    area_erased,
    exec_cleared_in_pte,
    file_link_cut,
    file_swapped,
    anon_link_cut,
)


@cache
def edited(name: str, edit: Technique) -> tuple[Analysis, Label] | None:
    """A changed copy of a sample, and what was done; None if the edit cannot be made there."""
    (sample,) = (sample for sample in SAMPLES if sample.name == name)
    copy = Edit(sample.analysis)
    try:
        label = edit(copy)
    except (AssertionError, KeyError):
        return None
    return again_from_views(sample.analysis, copy.overlay), label


def changed(sample: Sample, edit: Technique) -> tuple[Analysis, Label]:
    done = edited(sample.name, edit)
    if done is None:
        pytest.skip("this image has nothing that the edit could be made on")
    return done


def about(analysis: Analysis, label: Label, *, contents: bool = True) -> list[Finding]:
    """The findings of at least high severity about what was edited, as parts of the document."""
    document = build_document(analysis, contents=contents)
    found = [
        finding
        for finding in document.findings
        if finding.pid == label.pid and finding.severity in ("critical", "high")
    ]
    return [item for item in found if label.end == 0 or item.start is None or int(item.start, 16) < label.end]


@pytest.mark.parametrize("edit", OF_ONE_AREA, ids=lambda edit: edit.__name__)
def test_a_finding_names_the_vma_that_was_edited(either_sample: Sample, edit: Technique) -> None:
    """The VMA: the one that the clean image, whose maps are the guest's own, has at the place of the edit."""
    analysis, label = changed(either_sample, edit)
    rows = either_sample.analysis.views.union
    mine = rows.take(rows.mm == mm_of(either_sample.analysis, label.pid))
    mine = mine.take((mine.start <= label.start) & (mine.end > label.start))
    assert len(mine) == 1
    lines = either_sample.truth[f"proc/{label.pid}/maps"].decode("latin-1").splitlines()
    (perms,) = (line.split()[1] for line in lines if int(line.split("-")[0], 16) == mine.start[0])
    (found,) = about(analysis, label)
    assert found.vma == hex(int(mine.vma[0]))
    # None of these edits changes vm_flags: they are as the guest showed them.
    for letter, name in zip("rwx", ("VM_READ", "VM_WRITE", "VM_EXEC"), strict=True):
        assert (name in found.flags) == (letter in perms), found.flags


def test_memory_outside_of_every_vma_has_no_vma(either_sample: Sample) -> None:
    analysis, label = changed(either_sample, ghost_page)
    (found,) = about(analysis, label)
    assert found.vma is None
    assert found.flags == ()


@pytest.mark.parametrize("edit", [maple_slot_zeroed, list_and_tree_unlinked], ids=lambda edit: edit.__name__)
def test_the_dump_of_a_vma_begins_with_the_bounds_that_proc_showed(either_sample: Sample, edit: Technique) -> None:
    """vm_start and vm_end are the first words of vm_area_struct since 2.6."""
    analysis, label = changed(either_sample, edit)
    (found,) = about(analysis, label)
    (dump,) = (dump for dump in found.dumps if dump.what == "the vm_area_struct")
    assert dump.address == found.vma
    assert dump.data is not None
    assert len(bytes.fromhex(dump.data)) == SIZE
    words = bytes.fromhex(dump.data)
    assert [int.from_bytes(words[at : at + 8], "little") for at in (0, 8)] == [label.start, label.end]
    maps = either_sample.truth[f"proc/{label.pid}/maps"].decode("latin-1")
    assert f"{label.start:08x}-{label.end:08x} " in maps


def test_the_dump_of_the_evidence_shows_the_word_that_was_written(maple_sample: Sample) -> None:
    """The slot that the edit set to zero, and its neighbours, which it left alone."""
    analysis, label = changed(maple_sample, maple_slot_zeroed)
    maple = maple_sample.analysis.views.maple
    assert maple is not None
    mine = maple.take(maple.mm == mm_of(maple_sample.analysis, label.pid))
    (row,) = rows_in(mine.take(mine.start == label.start))
    (found,) = about(analysis, label)
    (dump,) = (dump for dump in found.dumps if "maple tree" in dump.what)
    at = int(row.slot) - int(dump.address, 16)
    assert 0 <= at < SIZE
    assert dump.data is not None
    held = bytes.fromhex(dump.data)
    assert held[at : at + 8] == bytes(8)
    others = {int(one.slot): int(one.vma) for one in rows_in(mine) if int(one.slot) != int(row.slot)}
    near = [word for word in others if 0 <= word - int(dump.address, 16) < SIZE]
    assert near
    for word in near:
        place = word - int(dump.address, 16)
        assert int.from_bytes(held[place : place + 8], "little") == others[word]


@pytest.mark.parametrize("name", ["debian-5.10", "debian-6.12"])
def test_the_first_bytes_of_hidden_memory_are_those_of_its_file(name: str) -> None:
    """Read through the page tables, though no index holds the VMA any more: a program begins with 7f E L F."""
    samples = built(name)
    if not samples:
        pytest.skip("excerpts hold no user memory, and no whole image is here")
    copy = Edit(samples[0].analysis)
    index = next(iter(copy.views.indices().values()))
    library = [name.endswith(b"/libc.so.6") for name in copy.views.names]
    row = next(row for row in rows_in(index) if library[int(row.vma_row)] and not vma_of(copy, row).pgoff and row.order)
    label = labelled(copy, "hidden", row)
    if copy.views.maple is not None:
        copy.put(int(row.slot), 0)
    else:
        copy.put(int(row.slot), int(vma_of(copy, row).next))
    (found,) = about(again_from_views(samples[0].analysis, copy.overlay), label)
    dump = found.dumps[0]
    assert (dump.what, dump.address) == ("first bytes of the memory", hex(label.start))
    assert dump.data is not None
    assert dump.data.startswith("7f454c46")


def test_memory_that_is_not_in_the_dump_has_no_bytes(tampered: Sample) -> None:
    """Excerpts hold no user memory."""
    found = build_document(tampered.analysis).findings[0]
    assert found.dumps[0].what == "first bytes of the memory"
    assert found.dumps[0].data is None


def test_without_contents_no_memory_of_a_process_is_shown(either_sample: Sample) -> None:
    for edit in (maple_slot_zeroed, list_only, exec_cleared_in_pte):
        done = edited(either_sample.name, edit)
        if done is not None:
            (found,) = about(*done, contents=False)
            assert found.dumps
            assert all(int(dump.address, 16) >> 63 or "page tables" in dump.what for dump in found.dumps)


def test_dumps_are_few_and_small(either_sample: Sample) -> None:
    for edit in OF_ONE_AREA:
        done = edited(either_sample.name, edit)
        for at, one in enumerate(build_document(done[0]).findings if done else ()):
            assert len(one.dumps) <= (3 if at < MOST and one.severity != "info" else 0)
            assert all(short(dump) for dump in one.dumps)


def short(dump: Hexdump) -> bool:
    return dump.data is None or re.fullmatch(r"(?:[0-9a-f]{2}){1,64}", dump.data) is not None


# By hand ----------------------------------------------------------------------------------------------------


def test_every_step_of_a_rule_has_lines_and_some_are_for_crash() -> None:
    for rule in all_rules():
        assert set(rule.steps) <= set(STEPS), rule.id
        assert any(STEPS[step].get("crash") for step in rule.steps), rule.id


@pytest.mark.parametrize("edit", [*OF_ONE_AREA, ghost_page, task_off_both, mm_decoy], ids=lambda edit: edit.__name__)
def test_lines_name_the_addresses_of_the_finding(either_sample: Sample, edit: Technique) -> None:
    analysis, label = changed(either_sample, edit)
    for found in about(analysis, label):
        assert [check.tool for check in found.by_hand][:2] == ["drgn", "crash"]
        known = [found.vma, found.mm, *(item.address for item in found.evidence)]
        named = {one for one in known if one is not None}
        for check in found.by_hand:
            text = "\n".join(check.lines)
            assert not re.search(r"[{}]|None", text), text
            assert any(address in text for address in named), text
            if found.vma is not None:
                assert found.vma in text


def test_lines_of_drgn_and_volshell_are_python(either_sample: Sample) -> None:
    """drgn's and volshell's prompts are those of Python; the names are looked up where both say what they offer."""
    helpers = pytest.importorskip("drgn.helpers.linux") if _has_drgn() else None
    shell = inspect.getsource(pytest.importorskip("volatility3.cli.volshell.linux"))
    shell += inspect.getsource(pytest.importorskip("volatility3.cli.volshell.generic"))
    assert BEGIN["drgn"] == ("from drgn.helpers.linux import *",)
    for edit in (*OF_ONE_AREA, task_off_both):
        done = edited(either_sample.name, edit)
        for found in build_document(done[0]).findings if done else ():
            for check in found.by_hand:
                if check.tool == "crash":
                    continue
                for line in check.lines:
                    compile(line + "\n", "line", "single")
                    for name in re.findall(r"(?<![\w.\"])([a-z_]+)\(", line):
                        if hasattr(builtins, name):
                            continue
                        if check.tool == "volshell":
                            assert f'"{name}"' in shell, line
                        elif helpers is not None:
                            assert hasattr(helpers, name), line


def _has_drgn() -> bool:
    return importlib.util.find_spec("drgn") is not None


def test_the_tools_are_those_of_the_document() -> None:
    assert TOOLS == ("drgn", "crash", "volshell")
