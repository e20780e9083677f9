"""Members that damaged types do not have: they cost what needs them, and no more than that."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import Sample, again, again_from_views

from vmaforensics.checks.finding import Severity
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.kernel.structures.btf import Btf
from vmaforensics.views.processes.mms import Mms

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

pytestmark = pytest.mark.image


@pytest.fixture
def kernel(maple_sample: Sample) -> Kernel:
    """A kernel with types of its own."""
    return again(maple_sample.analysis, maple_sample.analysis.image.memory).kernel


@pytest.fixture
def damaged(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """A kernel whose types have lost how many pages an mm has."""
    assert isinstance(kernel.types, Btf)
    layout = kernel.types.struct("mm_struct")
    assert layout is not None
    monkeypatch.delitem(layout.fields, "total_vm")
    kernel.forget()
    return kernel


def test_a_member_that_has_to_be_there_ends_the_reading_of_sound_types(damaged: Kernel) -> None:
    with pytest.raises(KernelNotFoundError, match="no total_vm in struct mm_struct"):
        damaged.gather(Mms, np.zeros(1, np.uint64))


def test_of_damaged_types_it_is_told_and_read_as_nothing(damaged: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damaged.types, "problem", "damaged at 1 place")
    rows, ok = damaged.gather(Mms, np.array([damaged.symbols.get("init_mm") or 0], np.uint64))
    assert (rows.total_vm[0], bool(ok[0])) == (0, True)
    assert list(damaged.untyped) == ["mm_struct.total_vm"]


def test_every_process_is_there_and_nothing_is_sure(
    damaged: Kernel, maple_sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damaged.types, "problem", "damaged at 1 place")
    analysis = again_from_views(replace(maple_sample.analysis, kernel=damaged), maple_sample.analysis.image.memory)
    assert len(analysis.views.tasks) == len(maple_sample.analysis.views.tasks)
    assert analysis.views.untyped == ("mm_struct.total_vm",)
    assert {finding.severity for finding in analysis.findings} == {Severity.INFO}
    assert any("mm_struct.total_vm" in text for text in analysis.kernel.identity.problems)


def test_without_the_type_of_mounts_files_have_no_paths_and_every_process_is_there(
    damaged: Kernel, maple_sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = damaged.types.struct("mount")
    assert layout is not None
    monkeypatch.delitem(layout.fields, "mnt")
    damaged.forget()
    monkeypatch.setattr(damaged.types, "problem", "damaged at 1 place")
    analysis = again_from_views(replace(maple_sample.analysis, kernel=damaged), maple_sample.analysis.image.memory)
    assert analysis.views.tasks.task.tolist() == maple_sample.analysis.views.tasks.task.tolist()
    assert analysis.views.vmas.vma.tolist() == maple_sample.analysis.views.vmas.vma.tolist()


def test_without_any_index_no_rule_goes_wrong(
    kernel: Kernel, maple_sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = kernel.types.struct("mm_struct")
    assert layout is not None
    for name in [name for name in layout.fields if name.startswith("mm_mt")]:
        monkeypatch.delitem(layout.fields, name)
    kernel.forget()
    monkeypatch.setattr(kernel.types, "problem", "damaged at 1 place")
    analysis = again_from_views(replace(maple_sample.analysis, kernel=kernel), maple_sample.analysis.image.memory)
    assert len(analysis.views.tasks) == len(maple_sample.analysis.views.tasks)
    assert "the index of the VMAs" in analysis.views.untyped
    assert analysis.context.failures == []


@pytest.mark.parametrize("struct", ["vmap_area", "slab", "page", "backing_file", "rb_node", "inode", "files_struct"])
def test_a_structure_that_is_lost_costs_no_process_and_accuses_nobody(
    sample: Sample, struct: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where its record lies in a page that is not in the dump."""
    kernel = again(sample.analysis, sample.analysis.image.memory).kernel
    found = type(kernel.types).struct
    monkeypatch.setattr(
        type(kernel.types), "struct", lambda types, name: None if name == struct else found(types, name)
    )
    monkeypatch.setattr(kernel.types, "problem", "damaged at 1 place")
    kernel.forget()
    analysis = again_from_views(replace(sample.analysis, kernel=kernel), sample.analysis.image.memory)
    assert analysis.views.tasks.task.tolist() == sample.analysis.views.tasks.task.tolist()
    assert analysis.context.failures == []
    known = {(finding.rule, finding.pid) for finding in sample.analysis.findings}
    loud = [finding for finding in analysis.findings if finding.severity.rank <= Severity.MEDIUM.rank]
    assert [finding for finding in loud if (finding.rule, finding.pid) not in known] == []


@pytest.mark.parametrize("size", [0, 1 << 32])
def test_no_structure_has_such_a_size(damaged: Kernel, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = damaged.types.struct("mm_struct")
    assert layout is not None
    monkeypatch.setattr(damaged.types, "struct", lambda _: replace(layout, size=size))
    with pytest.raises(KernelNotFoundError, match="no struct mm_struct"):
        damaged.sizeof("mm_struct")
