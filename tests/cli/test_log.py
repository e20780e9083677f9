"""The log verb: what it prints of a log made by hand, and of images that hold one or not."""

from __future__ import annotations

import json

import msgspec
import pytest
from handmade import Machine
from support import CRASHED, ROOT, WHOLE
from views.handmade_log import RESERVED, RING, ring

import vmaforensics.kernel.find
from vmaforensics.cli.main import main
from vmaforensics.errors import ExitCode
from vmaforensics.proc.log_document import LogDocument

IMAGE = str(ROOT / "samples/debian-6.1-crash/image.kdump")


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any image has the same log."""
    made = ring()
    made.write(b"Linux version 6.1", level=5)
    made.write(b"<2>\x1b[31mBUG: forged\nin two lines", level=2, facility=1, time=2 * 10**9, caller=77)
    made.write(b"BUG: real", level=1, time=3500 * 10**6, caller=1 << 31 | 2)
    made.write(b"half\0\0\0\0", level=6, time=4 * 10**9, state=RESERVED, said=0)
    kernel = made.machine.kernel()
    monkeypatch.setattr(vmaforensics.kernel.find, "find_kernel", lambda *_: kernel)


@pytest.mark.usefixtures("written")
@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ([], [0, 1, 2, 3, 4]),
        (["--level", "crit"], [1, 2, 3]),
        (["--level", "1"], [3]),
        (["--since", "3.5"], [3, 4]),
        (["--since", "2", "--level", "crit"], [1, 2, 3]),
    ],
)
def test_lines_are_those_asked_for(
    options: list[str], lines: list[int], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    everything = [
        "[    0.000000] Linux version 6.1",
        "[    2.000000] (/dev/kmsg user) <2>\\x1b[31mBUG: forged",
        "               in two lines",
        "[    3.500000] BUG: real",
        "[    4.000000] (unfinished) half",
    ]
    assert main(["log", IMAGE, *options]) == ExitCode.OK
    assert capfdbinary.readouterr().out.decode().splitlines() == [everything[line] for line in lines]


@pytest.mark.usefixtures("written")
def test_the_document_says_who_wrote_what(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["log", IMAGE, "--format", "json"]) == ExitCode.OK
    document = msgspec.json.decode(capfdbinary.readouterr().out, type=LogDocument)
    assert [
        (record.level, record.facility, record.from_kernel, record.caller, record.time) for record in document.records
    ] == [
        ("notice", "kern", True, "T1", "0.000000000"),
        ("crit", "user", False, "T77", "2.000000000"),
        ("alert", "kern", True, "C2", "3.500000000"),
        ("info", "kern", True, "T1", "4.000000000"),
    ]
    assert [record.state for record in document.records] == ["whole", "whole", "whole", "unfinished"]
    assert document.records[1].text == "<2>\\x1b[31mBUG: forged\nin two lines"


@pytest.mark.parametrize(
    "options", [["--level", "8"], ["--level", "loud"], ["--since", "-1"], ["--since", "soon"], ["--since", "nan"]]
)
def test_levels_and_times_that_are_none_are_refused(options: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["log", IMAGE, *options])
    assert ended.value.code == ExitCode.USAGE


def test_an_image_without_the_log_says_so(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(vmaforensics.kernel.find, "find_kernel", lambda *_: Machine(RING).kernel())
    assert main(["log", IMAGE]) == ExitCode.USAGE
    assert capfd.readouterr().err.startswith("vmaforensics: the kernel's log cannot be read")


@pytest.mark.image
def test_an_image_gives_what_its_vmcoreinfo_leads_to(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The first line is the banner that the guest's /proc/version is."""
    for sample in [*WHOLE, *CRASHED]:
        assert main(["log", str(sample.image_path), "--format", "json"]) == ExitCode.OK
        records = json.loads(capfdbinary.readouterr().out)["records"]
        assert records[0]["text"].startswith("Linux version")
        assert sample.truth["proc/version"].decode().startswith(records[0]["text"][:40])
        assert [record["seq"] for record in records] == [*range(len(records))]
