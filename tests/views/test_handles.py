"""Open files and System V segments, against what the guest said."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import rows_in

from vmaforensics.views.descriptors.content import Content, contents
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.structures.xarray import all_pointers, entries_at
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from support import Sample

    from vmaforensics.views.descriptors.handles import HandlesView


def handles_of(sample: Sample) -> HandlesView:
    handles = sample.analysis.views.handles
    assert handles is not None
    if not handles.whole:
        pytest.skip(f"{sample.name} does not hold the descriptors")
    return handles


def test_open_files_of_every_process_are_those_the_guest_listed(sample: Sample) -> None:
    handles, tasks = handles_of(sample), sample.analysis.views.tasks
    found: dict[int, set[int]] = defaultdict(set)
    for row in rows_in(handles.descriptors):
        found[int(row.pid)].add(int(row.fd))
    exited = set(tasks.pid[tasks.leader & (tasks.exit_state != 0)].tolist())
    compared = 0
    for pid in sample.truth.pids():
        raw = sample.truth.get(f"proc/{pid}/fd.links")
        if raw is None or pid == sample.truth.capturing or pid in exited:
            continue  # the files of a process whose first thread has ended are its other threads'
        assert found[pid] == {int(link.split(b"\t", 1)[0]) for link in raw.split(b"\0") if link}, pid
        compared += 1
    assert compared > 50


def test_segments_are_those_of_proc_sysvipc(sample: Sample) -> None:
    handles = handles_of(sample)
    lines = [line.split() for line in sample.truth["proc/sysvipc/shm"].decode().splitlines()[1:]]
    said = sorted((int(line[1]), int(line[0]), int(line[3]), int(line[6])) for line in lines)
    rows = handles.segments
    assert sorted((row.id, row.key, row.size, row.nattch) for row in rows_in(rows)) == said
    assert len(said) > 1


def test_memory_files_are_found_with_their_names(sample: Sample) -> None:
    handles = handles_of(sample)
    named = [name for name, internal in zip(handles.names, handles.memory_files.internal, strict=True) if internal]
    assert {b"memfd:plain memfd", b"memfd:huge memfd", b"SYSV00000000", b"dev/zero"} <= set(named)
    assert handles.memory_files.mapped[handles.memory_files.internal].all()


@pytest.mark.parametrize(
    ("start", "content"),
    [
        (b"\x7fELF\x02\x01\x01", Content.ELF),
        (b"#!/bin/sh\n", Content.SCRIPT),
        (b"Hello\n", Content.TEXT),
        (b"", Content.ZERO),
        (b"\0\0\x90", Content.OTHER),
        (b"\x01\x02", Content.OTHER),
    ],
)
def test_content_is_told_by_the_first_bytes(start: bytes, content: Content) -> None:
    page = np.frombuffer(start.ljust(64, b"\0"), np.uint8).reshape(1, -1)
    assert contents(page).tolist() == [content]


def test_an_index_that_leads_back_into_itself_ends(sample: Sample) -> None:
    handles = handles_of(sample)
    kernel, log = sample.analysis.kernel, ProblemLog()
    # Any readable memory will do as a hostile node: a segment whose words are read as slots.
    heads = handles.segments.segment + np.uint64(2)
    which, _, _ = all_pointers(kernel, np.repeat(heads, 4), View.HANDLES, log)
    assert len(which) < 1 << 16


def test_an_entry_is_found_at_its_index_and_no_other(sample: Sample) -> None:
    """xa_load against the walk over whole arrays."""
    handles, kernel = handles_of(sample), sample.analysis.kernel
    files = handles.memory_files.take(handles.memory_files.page != 0)
    heads, ok = kernel.gather_member("address_space", "i_pages.xa_head", files.mapping)
    heads = heads[ok]
    entries, fine = entries_at(kernel, heads, files.index[ok])
    assert fine.all()
    assert (entries == files.page[ok]).all()
    # Behind the end of a file that holds all its pages, and no huge one that reaches further, there is none.
    behind = (files.size[ok] + np.uint64(4095)) >> np.uint64(12)
    full = behind == files.pages[ok]
    assert full.any()
    entries, _ = entries_at(kernel, heads[full], behind[full])
    assert not entries.any()


def test_an_index_beyond_the_array_has_no_entry(sample: Sample) -> None:
    handles, kernel = handles_of(sample), sample.analysis.kernel
    heads, _ = kernel.gather_member("address_space", "i_pages.xa_head", handles.memory_files.mapping)
    entries, fine = entries_at(kernel, heads, np.full(len(heads), 1 << 51, np.uint64))
    assert fine.all()
    assert not entries.any()


def test_looking_up_in_an_array_that_leads_into_itself_ends(sample: Sample) -> None:
    handles, kernel = handles_of(sample), sample.analysis.kernel
    heads = handles.segments.segment + np.uint64(2)
    entries, _ = entries_at(kernel, heads, np.arange(len(heads), dtype=np.uint64))
    assert len(entries) == len(heads)
