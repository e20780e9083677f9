"""Guests in which a process for each way keeps pages that it does not map, with code or text in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from vmaforensics.checks.finding import Severity
from vmaforensics.views.descriptors.holders import Holder

if TYPE_CHECKING:
    from support import Sample

PAGES = 4  # as guest/holders.c has them
HOLDERS = {
    "vmsplice": Holder.VMSPLICED,
    "pipe": Holder.PIPE,
    "splice": Holder.SPLICED,
    "uring": Holder.IO_URING,
    "xdp": Holder.AF_XDP,
    "packet": Holder.AF_PACKET,
    "unix": Holder.SOCKET,
    "tcp": Holder.SOCKET,
    "dgram": Holder.SOCKET,
    "bpf": Holder.BPF_MAP,
    "arena": Holder.BPF_MAP,
    "ended": Holder.VMSPLICED,
}
ANONYMOUS = {"vmsplice", "uring", "xdp", "unix", "tcp", "ended"}  # told with any content, as information
FILES = {"memfd", "sysv", "secret"}


def marked(guest: Sample) -> dict[str, set[int]]:
    """The frames that hold the marker of each process."""
    frames = guest.analysis.views.frames
    assert frames is not None
    pfns = frames.kinds.pfns(np.arange(len(frames.kinds.kinds)))
    found: dict[str, set[int]] = {}
    for low in range(0, len(pfns), 1 << 14):
        part = pfns[low : low + (1 << 14)]
        data, _ = guest.analysis.image.memory.gather(part << np.uint64(12), 64)
        for row in np.flatnonzero((data[:, :5] == np.frombuffer(b"HELD-", np.uint8)).all(axis=1)).tolist():
            text = data[row].tobytes().split(b"\0", 1)[0].decode("ascii", "replace")
            found.setdefault(text.removeprefix("HELD-").rsplit("-", 1)[0], set()).add(int(part[row]))
    return found


@pytest.fixture
def made(holder_guest: Sample) -> dict[str, int]:
    """The process of each way that the guest says it went."""
    lines = holder_guest.truth["run/log/holders"].decode().splitlines()
    return {line.split()[2].replace("_", "-"): int(line.split()[1]) for line in lines if line.startswith("ok ")}


def test_every_page_is_found_with_its_holder(holder_guest: Sample, made: dict[str, int]) -> None:
    frames, handles = marked(holder_guest), holder_guest.analysis.views.handles
    assert handles is not None
    assert len(made) > 20
    for name, pid in made.items():
        holder = HOLDERS.get(name.split("-")[0])
        if holder is None:
            continue
        mine = handles.held.take((handles.held.pid == pid) & (handles.held.holder == holder))
        assert len(frames[name]) == PAGES, name
        assert frames[name] <= set(mine.pfn.tolist()), name


def test_code_is_told_at_low_and_text_as_no_more_than_information(holder_guest: Sample, made: dict[str, int]) -> None:
    frames, told = marked(holder_guest), holder_guest.analysis.findings
    for name in made:
        way, content = name.split("-")
        rules = {"MEM-UNMAPPED-CODE"} if way in FILES else {"FRAME-HELD"}
        places = {hex(pfn << 12) for pfn in frames[name]}
        mine = [
            finding
            for finding in told
            if finding.rule.id in rules
            and any(
                hex(item.address) in places or item.found.removeprefix("physical ") in places
                for item in finding.evidence
            )
        ]
        expected = [Severity.LOW] if content == "code" else [Severity.INFO] if way in ANONYMOUS else []
        assert [finding.severity for finding in mine] == expected, name
    assert not [finding for finding in told if finding.severity.rank < Severity.LOW.rank]


def test_the_ring_of_a_perf_event_takes_nothing(holder_guest: Sample, made: dict[str, int]) -> None:
    """The kernel lets nobody write to its pages: the process ended before it could say that it had."""
    assert not [name for name in made if name.startswith("perf")]
    assert not [name for name in marked(holder_guest) if name.startswith("perf")]
