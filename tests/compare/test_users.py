"""Who has a frame, who has a file: as the guest's own /proc says, hidden regions included."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import Edit, again_from_views
from tamper.page_edits import ghost_page

from vmaforensics.cli.main import main
from vmaforensics.compare.users import file_text, file_users, frame_text, frame_users
from vmaforensics.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from support import Sample, Truth


def mapping(truth: Truth, path: bytes) -> set[tuple[int, int]]:
    """(pid, start) of every VMA of a file, by /proc/PID/maps."""
    found = set()
    for pid in truth.pids():
        for line in truth.get(f"proc/{pid}/maps", b"").splitlines():
            start = re.match(rb"([0-9a-f]+)-", line)
            if start and line.endswith(b" " + path) and pid != truth.capturing:
                found.add((pid, int(start[1], 16)))
    return found


def test_those_who_map_a_file_are_those_of_proc(sample: Sample) -> None:
    analysis, path = sample.analysis, "/usr/bin/bash"
    expected = mapping(sample.truth, path.encode())
    if not expected:
        pytest.skip("nobody maps bash")
    found = file_users(analysis.kernel, analysis.views, path=path)
    assert {(user.pid, int(str(user.start), 16)) for user in found.users} == expected
    assert {holder.pid for holder in found.holders if "exe_file" in holder.how} == {pid for pid, _ in expected}
    assert any(user.code for user in found.users if user.perms == "r-xp")
    assert not any(user.code for user in found.users if user.perms == "rw-p")
    assert len(list(file_text(found))) == 1 + len(found.users) + len(found.holders)


def test_an_inode_is_the_same_question(sample: Sample) -> None:
    analysis = sample.analysis
    files = analysis.views.files
    assert files is not None
    row = next(row for row, path in enumerate(files.paths) if path == b"/usr/bin/bash")
    by_number = file_users(analysis.kernel, analysis.views, inode=int(files.rows.ino[row]))
    by_path = file_users(analysis.kernel, analysis.views, path="/usr/bin/bash")
    assert {(user.pid, user.start) for user in by_path.users} <= {(user.pid, user.start) for user in by_number.users}


def test_a_hidden_region_of_a_file_is_told(tampered: Sample) -> None:
    edit = tampered.edit
    assert edit is not None
    found = file_users(tampered.analysis.kernel, tampered.analysis.views, path="/usr/bin/bash")
    (hidden,) = (user for user in found.users if user.hidden)
    assert (hidden.pid, int(str(hidden.start), 16)) == (edit["pid"], int(str(edit["start"]), 16))
    assert "slab" in hidden.shown_by


def test_all_entries_that_lead_to_a_frame_are_told(sample: Sample) -> None:
    analysis = sample.analysis
    view = analysis.views.page_tables
    assert view is not None
    shared = int(view.pages.pfn[np.argmax(view.pages.mapcount * ~view.pages.compound)])
    found = frame_users(analysis.kernel, analysis.views, shared)
    ptes = view.ptes
    assert len(found.users) == int((ptes.maps_frames() & (ptes.pfn == np.uint64(shared)) & (ptes.level == 1)).sum())
    assert found.mapcount == len(found.users)
    assert all(user.shown_by for user in found.users)
    assert "\x1b" not in "".join(frame_text(found))


def test_a_frame_that_only_a_page_table_shows_is_hidden(sample: Sample) -> None:
    copy = Edit(sample.analysis)
    label = ghost_page(copy)
    analysis = again_from_views(sample.analysis, copy.overlay)
    view = analysis.views.page_tables
    assert view is not None
    (pfn,) = view.ptes.pfn[view.ptes.va == np.uint64(label.start)].tolist()
    users = [user for user in frame_users(analysis.kernel, analysis.views, pfn).users if user.hidden]
    assert [(user.pid, user.address, user.allows) for user in users] == [(label.pid, hex(label.start), "rwx")]


def test_what_nobody_has_is_told_or_wrong_usage(sample: Sample) -> None:
    analysis = sample.analysis
    for wrong in ({"path": "/no/such/file"}, {"inode": 1 << 40}):
        with pytest.raises(UsageError, match="no process maps"):
            file_users(analysis.kernel, analysis.views, **wrong)
    with pytest.raises(UsageError, match="no page frame"):
        frame_users(analysis.kernel, analysis.views, 1 << 41)
    beyond = int(analysis.image.memory.ranges[-1, 1]) >> 12
    assert not frame_users(analysis.kernel, analysis.views, beyond + 5).users


def test_the_command_tells_both_in_json(tampered: Sample, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    image = str(tampered.image_path)
    assert main(["pages", image, "--file", "/usr/bin/bash", "--format", "json"]) == ExitCode.OK
    assert json.loads(capsysbinary.readouterr().out)["users"]
    assert main(["pages", image, "--frame", "1", "--format", "json"]) == ExitCode.OK
    assert json.loads(capsysbinary.readouterr().out)["pfn"] == "0x1"
    assert main(["pages", image, "--frame", "1", "--format", "csv"]) == ExitCode.USAGE
