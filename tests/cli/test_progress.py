"""What a run says of itself while it lasts: to people, to programs, or not at all."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

import vmaforensics
from vmaforensics.analysis import analyse_image
from vmaforensics.cli import progress as shown
from vmaforensics.cli.main import build_parser
from vmaforensics.cli.progress import watched
from vmaforensics.progress import unheard
from vmaforensics.views.gather import EXTRA

if TYPE_CHECKING:
    from argparse import Namespace

    from support import Sample

RUN = [sys.executable, "-m", "vmaforensics"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def options(*arguments: str) -> Namespace:
    return build_parser(["report"]).parse_args(["report", "x", *arguments])


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make stderr a terminal; not in a fixture, after which pytest puts its own stream there."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(shown, "_AFTER", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return stream


def test_the_analysis_names_its_stages_in_order(maple_sample: Sample) -> None:
    stages: list[str] = []
    analyse_image(maple_sample.image_path, progress=lambda stage, *_: stages.append(stage))
    distinct = list(dict.fromkeys(stages))
    assert distinct[0] == "kernel"
    assert distinct[-1] == "checks"
    assert set(EXTRA) - {"patched"} <= set(distinct)  # that is a part of "code"
    known = list(shown._STAGES)
    assert [known.index(stage) for stage in distinct] == sorted(known.index(stage) for stage in distinct)


def test_a_search_and_a_hash_tell_the_bytes(maple_sample: Sample) -> None:
    told: list[tuple[str, int, int]] = []
    vmaforensics.analyse(maple_sample.image_path, sha256=True, progress=lambda *call: told.append((*call, 0, 0)[:3]))
    size = maple_sample.image_path.stat().st_size
    assert ("hash", size, size) in told
    memory = maple_sample.analysis.image.memory
    seen: list[tuple[int, int]] = []
    memory.watch = lambda done, total: seen.append((done, total))
    try:
        for _ in memory.scan():
            pass
    finally:
        memory.watch = None
    assert seen == sorted(seen)
    assert all(0 <= done <= total for done, total in seen)


def test_a_terminal_sees_stage_rate_and_remaining_time_and_then_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with watched(options()) as say:
        say("kernel", 0, 4 << 30)
        time.sleep(0.06)
        say("kernel", 2 << 30, 4 << 30)
        time.sleep(0.3)  # rich draws ten times a second
        assert terminal.getvalue()
        say("page-tables")
    text = terminal.getvalue()
    assert "finding the kernel" in text
    assert "left" in text
    assert re.search(r"[1-9]\d* MB/s", text)
    assert re.search(r"\d+%", text)
    # The line is erased, and the cursor is back.
    assert text.rstrip().endswith("\x1b[2K") or "\x1b[2K" in text.rsplit("page tables", 1)[-1]
    assert text.count("\x1b[?25h") == text.count("\x1b[?25l") == 1


def test_the_bar_is_taken_away_when_the_run_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with pytest.raises(KeyboardInterrupt), watched(options()) as say:
        say("kernel")
        raise KeyboardInterrupt
    assert terminal.getvalue().count("\x1b[?25h") == terminal.getvalue().count("\x1b[?25l") == 1


def test_a_short_run_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    monkeypatch.setattr(shown, "_AFTER", 60.0)
    with watched(options()) as say:
        for stage in shown._STAGES:
            say(stage)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("arguments", [["-q"], ["--progress", "never"]])
def test_nothing_is_shown_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    terminal = on_terminal(monkeypatch)
    with watched(options(*arguments)) as say:
        assert say is unheard
    assert terminal.getvalue() == ""


def test_the_parts_of_a_run_add_up_and_only_grow() -> None:
    bar = shown._Shown(shown._planned(options("--sha256")))
    reached = [bar._reached(stage, part, 4) for stage in bar._planned for part in (0, 2, 4)]
    assert reached == sorted(reached)
    assert reached[-1] == sum(bar._planned.values())
    assert "hash" in bar._planned
    assert "hash" not in shown._planned(options())
    assert "writing" not in shown._planned(options())


def test_a_pipe_sees_nothing_and_a_program_lines_of_json(maple_sample: Sample) -> None:
    image = str(maple_sample.image_path)
    plain = subprocess.run([*RUN, "report", image, "-q"], capture_output=True, timeout=120, check=True)
    assert plain.stderr == b""
    done = subprocess.run(
        [*RUN, "report", image, "-q", "--progress", "json"], capture_output=True, timeout=120, check=True
    )
    assert done.stdout == plain.stdout
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert next(line["stage"] for line in lines) == "kernel"
    assert {"page-tables", "checks", "rendering"} <= {line["stage"] for line in lines}
    for one in lines:
        assert set(one) == {"stage", "done", "total", "elapsed"}
        assert one["elapsed"] >= 0
