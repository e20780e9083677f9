"""A cluster that somebody else has started: whether its workers are there, alike, and see the same folder."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

from fleet.made import new_dataset
from vmaforensics.errors import OutputError, UsageError
from vmaforensics.fleet import run
from vmaforensics.fleet.sources import Source
from vmaforensics.fleet.task import Options, analyse_source
from vmaforensics.version import __version__

if TYPE_CHECKING:
    from pathlib import Path


class _Client:
    """Answers as a cluster with these versions of the package would; an error stands for a worker without it."""

    def __init__(self, versions: dict[str, object]) -> None:
        self._versions = versions

    def wait_for_workers(self, count: int, timeout: str) -> None:
        if len(self._versions) < count:
            raise TimeoutError(timeout)

    def run(self, function: Any, on_error: str) -> dict[str, object]:  # noqa: ANN401
        assert (function(), on_error) == (__version__, "return")
        return self._versions


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ({}, "has no workers; start some: dask worker tcp://s:1"),
        (
            {"tcp://a:1": __version__, "tcp://b:2": "0.0.1"},
            f"tcp://b:2 has vmaforensics 0.0.1, and this is {__version__}",
        ),
        ({"tcp://a:1": ModuleNotFoundError("no module")}, "tcp://a:1 has no vmaforensics"),
        ({"tcp://a:1": "\x1b[2J" * 90}, "tcp://a:1 has vmaforensics"),
    ],
)
def test_workers_that_cannot_do_it_are_told_before_the_first_image(versions: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as told:
        run._require_workers(_Client(versions), "tcp://s:1")
    assert said in str(told.value)
    assert "\x1b" not in str(told.value)


def test_workers_of_this_version_are_welcome() -> None:
    run._require_workers(_Client({"tcp://a:1": __version__}), "tcp://s:1")


def test_the_question_travels_without_this_package() -> None:
    """A worker that does not have it must be able to read the question."""
    sent = cloudpickle.dumps(run._asker())
    without = "import pickle, sys; sys.modules['vmaforensics'] = None; pickle.load(sys.stdin.buffer)()"
    done = subprocess.run([sys.executable, "-c", without], input=sent, capture_output=True, check=False)
    assert done.stderr.splitlines()[-1].startswith(b"ModuleNotFoundError")
    assert b"in version" in done.stderr  # it could be read, and was asked
    assert pickle.loads(sent)() == __version__


def test_a_worker_that_joins_later_with_another_version_ends_the_run(tmp_path: Path) -> None:
    options = replace(Options(folder=str(new_dataset(tmp_path / "out"))), version="0.0.1")
    source = Source(location="/nowhere", role="", size=0, modified=0)
    with pytest.raises(UsageError, match="install one version everywhere"):
        analyse_source(source, options)


def test_rows_that_lie_elsewhere_are_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_SEEN_WITHIN", 0.0)
    source = Source(location="/nowhere", role="", size=0, modified=0)
    here, there = new_dataset(tmp_path / "here"), new_dataset(tmp_path / "there")
    analyse_source(source, Options(folder=str(there)))
    with pytest.raises(OutputError, match="must see that folder by the same path"):
        run._require_row(here, source)
    run._require_row(there, source)
