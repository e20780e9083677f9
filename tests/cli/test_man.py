"""The manual page: made from the parser of today, clean for its formatters, and complete."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vmaforensics.cli.examples import ENVIRONMENT, EXAMPLES
from vmaforensics.cli.main import VERBS
from vmaforensics.errors import ExitCode

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/man/vmaforensics.1"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, timeout=60, check=False, text=True)


@pytest.fixture(scope="module")
def shown() -> str:
    """The page as text, in one line: words may be broken over lines otherwise."""
    text = re.sub(
        r"\\\((?:ti|ha|ga|aq)",
        lambda match: {"ti": "~", "ha": "^", "ga": "`", "aq": "'"}[match[0][2:]],
        PAGE.read_text(),
    )
    text = re.sub(r"\\f[BIR]|\\&|\\(?=-)", "", text).replace("\\[u2026]", "…").replace("\\e", "\\")
    return " ".join(text.split())


def test_the_page_is_what_the_parser_says() -> None:
    done = run(sys.executable, str(ROOT / "docs/man/make_man.py"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == PAGE.read_text(), "the options have changed: `make man` writes the page anew"


def test_the_width_of_the_terminal_is_not_in_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "33")
    assert run(sys.executable, str(ROOT / "docs/man/make_man.py")).stdout == PAGE.read_text()


@pytest.mark.parametrize(
    "command",
    [["mandoc", "-Tlint", "-W", "warning"], ["groff", "-man", "-ww", "-K", "utf8", "-Tutf8", "-z"]],
    ids=lambda command: command[0],
)
def test_its_formatters_have_nothing_to_complain_of(command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = run(*command, str(PAGE))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_has_every_verb_example_exit_code_and_variable(shown: str) -> None:
    for verb in VERBS:
        assert f".SS {verb} vmaforensics {verb} " in shown
        for command, _ in EXAMPLES[verb]:
            assert command in shown
    for code in ExitCode:
        assert re.search(rf"\.TP {int(code)} \w", shown), code
    for name, _ in ENVIRONMENT:
        assert f".TP {name} " in shown


def test_every_option_of_a_verb_is_in_its_section(shown: str) -> None:
    for verb in VERBS:
        helped = run(sys.executable, "-m", "vmaforensics", verb, "--help").stdout.split("options of every verb:")[0]
        section = shown.split(f".SS {verb} ")[1].split(".SS ")[0].split(".SH ")[0]
        for name in re.findall(r"^  (?:-\w \w+, |-\w, )?(--[a-z][a-z0-9-]+)", helped, re.MULTILINE):
            assert name == "--help" or name in section, (verb, name)
