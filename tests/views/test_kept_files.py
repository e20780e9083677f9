"""Files in flight over unix sockets and registered with io_uring: in guests that keep them, and when torn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import Edit, kernel_on, rows_in

from vmaforensics.views.descriptors.descriptors import read_descriptors
from vmaforensics.views.descriptors.keepers import Keeper
from vmaforensics.views.descriptors.kept_files import read_kept_files
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from support import Sample

    from vmaforensics.views.descriptors.handles import HandlesView
    from vmaforensics.views.descriptors.keepers import KeptFiles

# What guest/kept.c made, and what keeps it.
MADE = {
    b"memfd:kept in a queue": Keeper.QUEUE,
    b"memfd:kept in a queue in a queue": Keeper.QUEUE,
    b"memfd:kept in a backlog": Keeper.QUEUE,
    b"memfd:kept by io_uring": Keeper.IO_URING,
}


def handles_of(sample: Sample) -> HandlesView:
    assert sample.analysis.views.handles is not None
    return sample.analysis.views.handles


def owner(sample: Sample) -> int:
    return int(sample.truth["run/log/kept"].split()[1])


def reread(sample: Sample, edit: Edit) -> tuple[KeptFiles, bool, ProblemLog]:
    kernel, log = kernel_on(sample.analysis.kernel, edit.overlay), ProblemLog()
    descriptors, _ = read_descriptors(kernel, sample.analysis.views.tasks, log)
    return *read_kept_files(kernel, descriptors, log), log


def test_every_file_that_is_kept_is_found(kept_guest: Sample) -> None:
    handles = handles_of(kept_guest)
    assert handles.kept_whole
    names = dict(zip(handles.memory_files.inode.tolist(), handles.names, strict=True))
    mine = handles.kept.take(handles.kept.pid == owner(kept_guest))
    found = {names[int(row.inode)]: Keeper(int(row.keeper)) for row in rows_in(mine) if int(row.inode) in names}
    assert found == MADE


def test_what_else_is_kept_is_a_device_and_a_socket(kept_guest: Sample) -> None:
    """io_uring has /dev/null too, and one of the files in flight is a socket with a file in its own queue."""
    handles = handles_of(kept_guest)
    memory = set(handles.memory_files.inode.tolist())
    rest = [row for row in rows_in(handles.kept) if int(row.inode) not in memory]
    assert sorted(Keeper(int(item.keeper)) for item in rest) == [Keeper.QUEUE, Keeper.IO_URING]


def test_code_in_each_of_them_names_who_leads_to_it(kept_guest: Sample) -> None:
    found = [finding for finding in kept_guest.analysis.findings if finding.rule.id == "MEM-UNMAPPED-CODE"]
    assert {item.pid for item in found} == {owner(kept_guest)}
    assert len(found) == len(MADE) + 1  # and one that a descriptor keeps
    for name, keeper in MADE.items():
        (one,) = [item for item in found if f"{name.decode()} that no VMA" in item.title]
        assert f"kept by {keeper.label}" in one.title
        assert any(f"{keeper.label} (by descriptor " in item.what for item in one.evidence)


def test_ordinary_guests_keep_nothing(whole_kernel: Sample) -> None:
    assert len(handles_of(whole_kernel).kept) == 0


def test_a_queue_that_leads_back_into_itself_ends(kept_guest: Sample) -> None:
    edit = Edit(kept_guest.analysis)
    queue = next(row for row in rows_in(handles_of(kept_guest).kept) if row.keeper == Keeper.QUEUE)
    head = edit.at("sock", int(queue.by), "sk_receive_queue.next")
    first = edit.get(head)
    edit.put(edit.at("sk_buff", first, "next"), first)
    _, whole, log = reread(kept_guest, edit)
    assert not whole
    assert Problem.CYCLE in log.table().problem


@pytest.mark.parametrize("value", [0x4141414141414141, 1, 0xFFFF800000000123])
def test_wild_pointers_in_a_queue_cost_only_that_queue(kept_guest: Sample, value: int) -> None:
    edit = Edit(kept_guest.analysis)
    kept = handles_of(kept_guest).kept
    queue = next(row for row in rows_in(kept) if row.keeper == Keeper.QUEUE)
    edit.put(edit.at("sock", int(queue.by), "sk_receive_queue.next"), value)
    rows, whole, log = reread(kept_guest, edit)
    assert not whole
    assert (log.table().view == View.HANDLES).all()
    assert {int(row.file) for row in rows_in(kept) if row.keeper == Keeper.IO_URING} <= set(rows.file.tolist())


def test_a_count_of_registered_files_beyond_reason_is_cut_short(kept_guest: Sample) -> None:
    edit = Edit(kept_guest.analysis)
    ring = next(row for row in rows_in(handles_of(kept_guest).kept) if row.keeper == Keeper.IO_URING)
    kernel = kept_guest.analysis.kernel
    path = next(one for one in ("file_table.data.nr", "nr_user_files") if kernel.has("io_ring_ctx", one))
    edit.put(edit.at("io_ring_ctx", int(ring.by), path), 0xFFFFFFFF, 4)
    rows, whole, log = reread(kept_guest, edit)
    assert not whole
    assert Problem.CUT_SHORT in log.table().problem
    assert not (rows.by == ring.by).any()


def test_queues_that_are_not_in_the_dump_are_said_not_to_be(kept_guest: Sample) -> None:
    edit = Edit(kept_guest.analysis)
    queue = next(row for row in rows_in(handles_of(kept_guest).kept) if row.keeper == Keeper.QUEUE)
    edit.drop(edit.get(edit.at("sock", int(queue.by), "sk_receive_queue.next")))
    _, whole, log = reread(kept_guest, edit)
    assert not whole
    assert Problem.UNREADABLE in log.table().problem
