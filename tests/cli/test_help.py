"""The help of each verb: its examples do what they say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from vmaforensics.cli.examples import ENVIRONMENT, EXAMPLES, EXIT_CODES, OVERVIEW
from vmaforensics.cli.main import VERBS
from vmaforensics.errors import ExitCode
from vmaforensics.fleet.dataset import open_dataset

if TYPE_CHECKING:
    from pathlib import Path

    from support import Sample

COMMANDS = [(verb, command) for verb, examples in EXAMPLES.items() for command, _ in examples]
COMMANDS += [("overview", command) for command, _ in OVERVIEW if command not in {other for _, other in COMMANDS}]


def help_of(*arguments: str) -> str:
    command = [sys.executable, "-m", "vmaforensics", *arguments, "--help"]
    environment = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run(command, capture_output=True, timeout=60, check=True, text=True, env=environment)
    return done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_ends_its_help_with_examples(verb: str) -> None:
    text = help_of(verb)
    _, _, tail = text.partition("\nexamples:\n")
    assert EXAMPLES[verb]
    for command, what in EXAMPLES[verb]:
        assert command in tail
        assert what in tail
    assert not any(len(line) > 120 for line in text.splitlines())


def test_the_help_of_the_command_has_examples_exit_codes_and_environment() -> None:
    text = help_of()
    assert {code for code, _ in EXIT_CODES} == set(ExitCode)
    for code, what in EXIT_CODES:
        assert re.search(rf"^  {code} +{re.escape(what)}$", text, re.MULTILINE)
    for name, what in ENVIRONMENT:
        assert re.search(rf"^  {name} +{re.escape(what)}$", text, re.MULTILINE)
    for command, _ in OVERVIEW:
        assert command in text


@pytest.fixture(scope="module")
def saved(tampered_one: Sample, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The saved report of the image."""
    out = tmp_path_factory.mktemp("saved") / "case.json"
    command = [sys.executable, "-m", "vmaforensics", "report", str(tampered_one.image_path), "--format", "json"]
    subprocess.run([*command, "-o", str(out)], timeout=120, check=True)
    return out.read_bytes()


@pytest.fixture(scope="module")
def tampered_one() -> Sample:
    from support import TAMPERED

    if not TAMPERED:
        pytest.skip("no bundled sample has been edited")
    return TAMPERED[0]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one example has found the next need not search for."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(("verb", "command"), COMMANDS, ids=[command for _, command in COMMANDS])
def test_the_example_works(
    verb: str, command: str, tampered_one: Sample, saved: bytes, cache: Path, tmp_path: Path
) -> None:
    """As written, except for names: the image, a process of it, an address and a finding that it has."""
    assert tampered_one.edit is not None
    document = json.loads(saved)
    worst = document["findings"][0]
    for name in ("vmcore", "memory.lime", "before.kdump", "after.kdump"):
        (tmp_path / name).symlink_to(tampered_one.image_path)
    if verb == "fleet":
        pytest.importorskip("distributed")
        (tmp_path / "evidence").mkdir()
        (tmp_path / "evidence" / "vmcore").symlink_to(tampered_one.image_path)
        (tmp_path / "images.txt").write_text("vmcore\tweb\n")
        open_dataset(tmp_path / "known-good", resume=False)
    if not command.endswith("-o case.json"):
        for name in ("case.json", "before.json", "after.json"):
            (tmp_path / name).write_bytes(saved)
    for folder in (".zfunc", ".local/share/bash-completion/completions", ".config/fish/completions", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "rules").mkdir()
    for name in ("one.yar", "rules/one.yar"):
        (tmp_path / name).write_text('rule elf { strings: $a = "ELF" condition: $a }')
    (tmp_path / "bin/vmaforensics").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vmaforensics "$@"\n')
    (tmp_path / "bin/vmaforensics").chmod(0o755)
    real = re.sub(r"\b1234\b", str(worst["pid"]), command).replace("7f3c5a000000", worst["start"])
    real = real.replace("0123456789ab", worst["id"])
    real = real.replace("--level err --since 3600", "--level info --since 1")  # the guest was up for half a minute
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(cache), "XDG_CONFIG_HOME": ""}
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"  # noqa: PTH120
    done = subprocess.run(
        ["sh", "-c", real],
        cwd=tmp_path,
        env={**os.environ, **home, "PATH": path},
        capture_output=True,
        timeout=240,
        check=False,
    )
    expected = ExitCode.FINDINGS if "--fail-on" in real else ExitCode.OK
    assert done.returncode == expected, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    target = re.search(r"(?:-o|>) (\S+)", real)
    if target is None:
        assert done.stdout or verb == "log"  # the example asks for errors alone
    else:
        place = tmp_path / target[1].replace("~/", "")
        assert place.is_dir() or place.stat().st_size > 100
