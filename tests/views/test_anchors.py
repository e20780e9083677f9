"""Registers, auxiliary vectors and the CPUs' page tables, against what the guest said."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import RESTING, Edit, kernel_on, rows_in

from vmaforensics.arch.registers import CpuState
from vmaforensics.views.anchors.anchors import AUXV
from vmaforensics.views.anchors.cpus import RootOwner, read_cpus

if TYPE_CHECKING:
    from support import Sample

    from vmaforensics.views.anchors.anchors import AnchorsView


def anchors_of(sample: Sample) -> AnchorsView:
    anchors = sample.analysis.views.anchors
    assert anchors is not None
    return anchors


def test_saved_registers_are_those_the_guest_showed(sample: Sample) -> None:
    threads = {int(row.pid): row for row in rows_in(anchors_of(sample).threads)}
    if not anchors_of(sample).threads.user.any():
        pytest.skip(f"{sample.name} does not hold the kernel stacks")
    compared = 0
    for name, raw in sample.truth.items():
        hit = re.fullmatch(r"proc/(\d+)/(?:task/(\d+)/)?syscall", name)
        words = raw.split()
        if hit is None or len(words) < 3 or int(hit[1]) == sample.truth.capturing:
            continue
        one = threads.get(int(hit[2] or hit[1]))
        if one is None or words[0] == b"running":
            continue
        stack, code = int(words[-2], 16), int(words[-1], 16)
        if (stack, code) == (0, 0):
            continue  # kernel threads
        assert (bool(one.user), int(one.sp), int(one.ip)) == (True, stack, code), name
        compared += 1
    assert compared > 50


def test_auxiliary_vectors_are_those_the_guest_showed(sample: Sample) -> None:
    views, compared = sample.analysis.views, 0
    for row, mm in zip(rows_in(anchors_of(sample).mms), rows_in(views.mms), strict=True):
        raw = sample.truth.get(f"proc/{int(mm.pid)}/auxv", b"")
        if not raw or not row.ok:
            continue
        pair = "<II" if int(mm.task_size) <= 1 << 32 else "<QQ"
        whole = raw[: len(raw) - len(raw) % struct.calcsize(pair)]
        said = dict(struct.iter_unpack(pair, whole))
        assert {name: int(getattr(row, name)) for name in AUXV} == {
            name: said.get(number, 0) for name, number in AUXV.items()
        }
        compared += 1
    assert compared > 50


def test_page_tables_of_the_cpus_are_those_of_processes_or_the_kernel(sample: Sample) -> None:
    cpus = anchors_of(sample).cpus
    known = [cpu for cpu in sample.analysis.image.cpus if cpu.table_register is not None]
    assert len(cpus) == len(known)
    assert np.isin(cpus.owner, (RootOwner.PROCESS, RootOwner.KERNEL, RootOwner.DEAD)).all()


@pytest.mark.parametrize(("panic", "owner"), [(1, RootOwner.CRASH_KERNEL), (0xFFFFFFFF, RootOwner.UNKNOWN)])
def test_after_a_panic_a_cpu_may_run_the_crash_kernel(panic: int, owner: RootOwner) -> None:
    """The guest's log: Reserving 256MB of memory at 720MB for crashkernel."""
    (dead,) = (sample for sample in RESTING if sample.name == "debian-6.1-crash")
    edit = Edit(dead.analysis)
    at = edit.kernel.symbols.get("panic_cpu")
    assert at is not None
    edit.put(at, panic, 4)
    cpus = (CpuState(cpu=0, table_register=0x2E002000), CpuState(cpu=1, table_register=0x3D000000))
    found = read_cpus(kernel_on(dead.analysis.kernel, edit.overlay), dead.analysis.views.mms, cpus)
    assert found.owner.tolist() == [owner, RootOwner.UNKNOWN]


def test_handlers_lie_in_the_half_of_the_user(sample: Sample) -> None:
    anchors = anchors_of(sample)
    if not len(anchors.handlers):
        pytest.skip(f"{sample.name} does not hold the signal handlers")
    assert (anchors.handlers.handler < np.uint64(1 << 57)).all()
    assert ((anchors.handlers.signal >= 1) & (anchors.handlers.signal <= 64)).all()
