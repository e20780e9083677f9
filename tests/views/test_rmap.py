"""Reverse maps against what the guest itself said, and against trees that lead astray."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import Edit, Sample, again_from_views, serious

from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64, Bools

_LINE = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) \S+ [0-9a-f]+ \S+ (\d+) *(/?)")


@pytest.fixture(scope="module")
def clean(sample: Sample) -> Sample:
    """A sample whose excerpt holds the pages of the reverse maps."""
    rmap = sample.analysis.views.rmap
    if rmap is None or not len(rmap.anon_nodes):
        pytest.skip("this excerpt was made before reverse maps were read")
    return sample


def test_every_file_vma_that_the_guest_lists_hangs_in_i_mmap_and_no_other(clean: Sample) -> None:
    views, truth = clean.analysis.views, clean.truth
    rmap = views.rmap
    assert rmap is not None
    area = rmap.vmas.take(rmap.vma_rows(np.unique(rmap.file_nodes.vma)))
    pid = views.mms.pid[views.mm_rows(area.mm)]
    found = set(zip(pid.tolist(), area.start.tolist(), area.end.tolist(), strict=True))
    expected = set()
    for one in set(views.mms.pid.tolist()):
        # A process whose first thread has ended shows its VMAs in the other threads' files alone.
        files = [f"proc/{one}/maps", *(name for name in truth if re.fullmatch(rf"proc/{one}/task/\d+/maps", name))]
        for line in b"".join(truth.get(name, b"") for name in files).splitlines():
            hit = _LINE.match(line)
            if hit and (int(hit[3]) or hit[4]):  # System V shared memory shows its id, which may be 0
                expected.add((one, int(hit[1], 16), int(hit[2], 16)))
    capturing = truth.capturing
    assert {row for row in found if row[0] != capturing} == {row for row in expected if row[0] != capturing}
    assert len(expected) > 500


def test_both_directions_of_the_anonymous_map_agree(clean: Sample) -> None:
    rmap = clean.analysis.views.rmap
    assert rmap is not None
    nodes, chains = rmap.anon_nodes, rmap.chains
    down = set(zip(nodes.tree.tolist(), nodes.item.tolist(), nodes.vma.tolist(), strict=True))
    up = set(zip(chains.anon_vma.tolist(), chains.avc.tolist(), chains.vma.tolist(), strict=True))
    assert down == up
    assert set(rmap.chains.vma.tolist()) == set(rmap.vmas.vma[rmap.vmas.anon_vma != 0].tolist())


def test_a_clean_image_has_no_strays_and_no_findings(clean: Sample) -> None:
    rmap = clean.analysis.views.rmap
    assert rmap is not None
    assert not rmap.strays
    assert not [finding for finding in serious(clean.analysis) if finding[1].startswith("RMAP")]


def test_absent_pages_are_no_evidence(clean: Sample) -> None:
    """A third of the pages that hold anon_vma_chains, VMAs and address spaces taken out of the dump."""
    rmap = clean.analysis.views.rmap
    assert rmap is not None
    edit = Edit(clean.analysis)
    held = (rmap.anon_nodes.item, rmap.file_nodes.item, rmap.mappings.mapping, rmap.anon_vmas.anon_vma)
    pages = np.unique(np.concatenate(held) & ~np.uint64(4095))
    for page in np.random.default_rng(1).permutation(pages)[: len(pages) // 3].tolist():
        edit.drop(page)
    changed = again_from_views(clean.analysis, edit.overlay)
    assert not [finding for finding in serious(changed) if finding[1].startswith("RMAP") or finding[1] == "VMA-LINK"]
    assert np.isin(changed.views.problems.view, (View.FILE_RMAP, View.ANON_RMAP)).any()


def test_hostile_links_are_problems_and_cost_only_their_own_tree(clean: Sample) -> None:
    analysis = clean.analysis
    rmap = analysis.views.rmap
    assert rmap is not None
    edit = Edit(analysis)
    rng = np.random.default_rng(2)
    for struct, member, nodes in (
        ("vm_area_struct", "shared.rb.", rmap.file_nodes),
        ("anon_vma_chain", "rb.", rmap.anon_nodes),
    ):
        chosen = nodes.take(rng.permutation(len(nodes))[:40])
        junk = [int(nodes.node[0]), int(chosen.node[-1]), 0x4141414141414141, int(nodes.node[1]) | 1, 1 << 62]
        for n, item in enumerate(chosen.item.tolist()):
            side = ("rb_left", "rb_right")[n % 2]
            edit.put(edit.at(struct, item, member + side), junk[n % len(junk)])
    for n, avc in enumerate(rng.permutation(rmap.chains.avc)[:40].tolist()):
        junk = [avc, int(rmap.chains.avc[n]), 0x4242424242424242, 0]
        edit.put(edit.at("anon_vma_chain", avc, "same_vma.next"), junk[n % len(junk)])
    changed = again_from_views(analysis, edit.overlay)
    met = set(changed.views.problems.problem[changed.views.problems.view == View.FILE_RMAP].tolist())
    assert {Problem.CYCLE, Problem.NON_CANONICAL, Problem.MISALIGNED} <= met
    assert changed.views.rmap is not None
    whole = changed.views.rmap.mappings.whole
    assert whole.any()
    assert not whole.all()


def test_inodes_are_found_without_the_dentry_hash_table(clean: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    from vmaforensics.views.problems import ProblemLog
    from vmaforensics.views.reverse_maps import inodes

    kernel = clean.analysis.kernel
    quick = inodes.inode_mappings(kernel, ProblemLog())
    monkeypatch.setattr(inodes, "_hashed", lambda kernel: np.zeros(0, np.uint64))
    rounds = 0
    words = kernel.words

    def counted(addresses: U64, count: int) -> tuple[U64, Bools]:
        nonlocal rounds
        rounds += 1
        return words(addresses, count)

    monkeypatch.setattr(kernel, "words", counted)
    slow = inodes.inode_mappings(kernel, ProblemLog())
    assert np.array_equal(quick, slow)
    assert len(quick) > 1000
    assert rounds < 500  # and not once for each inode, of which there are thousands
