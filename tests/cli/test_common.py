"""Options of every verb, colour, start-up: what the command decides before a verb runs."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vmaforensics.cli import main as cli
from vmaforensics.cli.main import VERBS, build_parser
from vmaforensics.cli.style import text_style

if TYPE_CHECKING:
    from support import Sample

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-m", "vmaforensics"]


def parsed(*arguments: str) -> argparse.Namespace:
    return build_parser(["report"]).parse_args(arguments)


def all_verbs() -> dict[str, argparse.ArgumentParser]:
    parser = build_parser()
    (verbs,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(verbs.choices)


def test_every_verb_of_the_table_is_there() -> None:
    assert tuple(all_verbs()) == VERBS


def test_common_options_stand_before_the_verb_or_after_it() -> None:
    before = parsed("-v", "-q", "--color", "never", "--progress", "json", "-d", "report", "x")
    after = parsed("report", "x", "-v", "-q", "--color", "never", "--progress", "json", "-d")
    for one in (before, after):
        assert (one.verbose, one.quiet, one.color, one.progress, one.debug) == (1, True, "never", "json", True)
    neither = parsed("report", "x")
    assert (neither.verbose, neither.quiet, neither.color, neither.progress, neither.debug) == (
        0,
        False,
        "auto",
        "auto",
        False,
    )
    assert parsed("report", "-vv", "x").verbose == 2
    assert parsed("--color", "never", "report", "x", "--color", "always").color == "always"


def test_an_option_means_the_same_in_every_verb() -> None:
    letters: dict[str, set[tuple[str, ...]]] = {}
    for parser in all_verbs().values():
        for action in parser._actions:
            for name in action.option_strings:
                letters.setdefault(name, set()).add(tuple(action.option_strings))
    assert {name: spelled for name, spelled in letters.items() if len(spelled) > 1} == {}


class Terminal:
    """A stdout that is, or is not, a terminal."""

    def __init__(self, tty: bool) -> None:
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty


@pytest.mark.parametrize(
    ("tty", "environment", "options", "expected"),
    [
        (True, {}, [], True),
        (False, {}, [], False),
        (True, {"NO_COLOR": "1"}, [], False),
        (True, {"NO_COLOR": ""}, [], True),  # no-color.org: when present and not an empty string
        (True, {"TERM": "dumb"}, [], False),
        (False, {"FORCE_COLOR": "1"}, [], True),
        (False, {"FORCE_COLOR": ""}, [], False),
        (True, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, [], False),
        (True, {"NO_COLOR": "1"}, ["--color", "always"], True),
        (False, {"FORCE_COLOR": "1"}, ["--color", "never"], False),
        (True, {}, ["-o", "file"], False),
        (False, {"FORCE_COLOR": "1"}, ["-o", "file"], False),
        (True, {}, ["-o", "file", "--color", "always"], True),
    ],
)
def test_colour_is_as_asked_then_as_the_environment_says_then_for_terminals(
    monkeypatch: pytest.MonkeyPatch, tty: bool, environment: dict[str, str], options: list[str], expected: bool
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Terminal(tty))
    assert text_style(parsed("report", "x", *options)).color is expected


def test_the_width_is_that_of_the_terminal_and_none_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "77")
    monkeypatch.setattr(sys, "stdout", Terminal(True))
    assert text_style(parsed("report", "x")).width == 77
    assert text_style(parsed("report", "x", "-o", "file")).width is None
    monkeypatch.setattr(sys, "stdout", Terminal(False))
    assert text_style(parsed("report", "x")).width is None


@pytest.mark.parametrize(("options", "detail"), [([], 0), (["-q"], -1), (["-v"], 1), (["-vv"], 2), (["-vvvv"], 2)])
def test_v_and_q_choose_the_detail(options: list[str], detail: int) -> None:
    assert text_style(parsed("report", "x", *options)).detail == detail


def test_the_report_of_the_command_has_the_detail_and_colour_asked_for(tampered: Sample) -> None:
    def output(*options: str) -> str:
        done = subprocess.run(
            [*RUN, "report", str(tampered.image_path), *options], capture_output=True, timeout=120, check=True
        )
        assert done.stderr == b""
        return done.stdout.decode()

    quiet, plain, coloured, all_of_it = output("-q"), output(), output("--color", "always"), output("-v")
    assert quiet.startswith("VERDICT   ")
    assert "Not assessed" not in quiet
    assert "\x1b" not in plain
    assert "\x1b[1;31mHIGH" in coloured
    assert len(quiet) < len(plain) < len(all_of_it)
    assert "why it matters" in all_of_it


def modules_after(*arguments: str) -> set[str]:
    """What is loaded when the command ends."""
    code = (
        "import sys\n"
        "from vmaforensics.cli.main import main\n"
        f"try:\n    main({list(arguments)!r})\n"
        "except SystemExit:\n    pass\n"
        "print(*sorted(sys.modules), sep='\\n', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
    return set(done.stderr.decode().split())


HEAVY = ("numpy", "rich", "jinja2", "msgspec", "construct", "volatility3", "elftools", "shtab", "pandas")


def test_version_loads_next_to_nothing() -> None:
    loaded = modules_after("--version")
    assert loaded.isdisjoint({*HEAVY, "logging", "tempfile", "dataclasses"})
    # The verbs are loaded when they are called.
    assert not any(module.startswith("vmaforensics.cli.re") for module in loaded)


@pytest.mark.parametrize("arguments", [["--help"], ["report", "--help"], ["diff", "--help"], ["nonsense"]])
def test_help_needs_none_of_the_libraries(arguments: list[str]) -> None:
    assert modules_after(*arguments).isdisjoint(HEAVY)


@pytest.mark.parametrize(
    "start",
    [
        b"hello\n" * 1000,
        b"PK\x03\x04" + bytes(99),
        b"\x7fELF\2\1\1" + bytes(9) + b"\4\0\xb7\0" + bytes(99),
        b"\x7fELF\1\1\1" + bytes(9) + b"\4\0\x03\0" + bytes(99),
        b"KDUMP   \6\0\0\0".ljust(272, b"\0") + b"aarch64" + bytes(999),
        bytes(1000),
        b"",
    ],
    ids=["text", "zip", "arm64", "i386", "kdump", "too little", "empty"],
)
def test_what_the_first_bytes_refuse_is_refused_before_anything_is_loaded(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(start)
    for verb in ("report", "info", "crash", "scan"):
        more = ["--strings"] if verb == "scan" else []
        assert modules_after(verb, str(path), *more).isdisjoint(HEAVY)


ARGUMENTS = {
    "what": ["0xffff888000000000"],
    "maps": ["--pid", "1"],
    "smaps": ["--pid", "1"],
    "views": ["--pid", "1"],
    "pages": ["--pid", "1"],
    "extract": ["--pid", "1", "--at", "0x1000", "-o", "out"],
    "core": ["--pid", "1", "-o", "out"],
    "scan": ["--strings"],
    "sql": ["SELECT count(*) FROM processes"],
    "excerpt": ["-o", "out"],
    "isf": ["-o", "out.json"],
    "diff": ["none"],
}


@pytest.mark.parametrize(
    "verb", [verb for verb in VERBS if verb not in ("fleet", "explain", "plugin-dir", "completion")]
)
def test_what_is_no_image_is_one_sentence_and_an_exit_code_of_every_verb(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    header = b"\x7fELF\2\1\1" + bytes(9)
    for name, content, code in (
        ("empty", b"", 10),
        ("text", b"hello\n" * 200_000, 11),
        ("picture", b"\x89PNG\r\n\x1a\n" + bytes(2 << 20), 11),
        ("arm64", header + b"\4\0\xb7\0" + bytes(2 << 20), 11),
        ("cut.elf", header + b"\4\0\x3e\0" + bytes(30), 11),
        ("cut.kdump", b"KDUMP   \6\0\0\0" + bytes(200), 11),
        ("few", bytes(range(256)), 11),
        (".", None, 10),
        ("none", None, 10),
        ("/dev/null", None, 10),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        assert cli.main([verb, name, *ARGUMENTS.get(verb, [])]) == code, name
        said = capsys.readouterr()
        assert said.err.startswith("vmaforensics: ")
        assert said.err.count("\n") == 1
        assert "Traceback" not in said.err
    assert not list(tmp_path.glob("out*"))


def test_a_plain_report_needs_no_rich_and_no_templates(tampered: Sample) -> None:
    loaded = modules_after("report", str(tampered.image_path), "-q")
    assert "numpy" in loaded
    assert loaded.isdisjoint({"rich", "jinja2", "shtab", "volatility3", "pandas", "pyarrow"})


def test_a_wrong_verb_is_told_which_there_are() -> None:
    done = subprocess.run([*RUN, "frobnicate", "report"], capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    for verb in VERBS:
        assert verb.encode() in done.stderr


def test_the_readme_shows_what_the_report_prints() -> None:
    image = "samples/tampered-6.1/image.kdump"
    done = subprocess.run([*RUN, "report", image], cwd=ROOT, capture_output=True, timeout=120, check=True)
    shown = (ROOT / "README.md").read_text().split("prints this:\n\n```\n")[1].split("```\n")[0]
    assert shown == done.stdout.decode(), "what `make demo` prints has changed: put it into the README"


def test_the_readme_shows_what_the_crash_case_prints() -> None:
    """Of the second demonstration, stretches of it."""
    image = "samples/crash-6.1-vma-file/image.kdump"
    done = subprocess.run([*RUN, "crash", image], cwd=ROOT, capture_output=True, timeout=120, check=True)
    shown = (ROOT / "README.md").read_text().split(f"$ vmaforensics crash {image}\n")[1].split("\n```\n")[0]
    for stretch in shown.removesuffix("\n…").split("\n…\n"):
        assert stretch in done.stdout.decode(), "what `make demo-crash` prints has changed: put it into the README"
