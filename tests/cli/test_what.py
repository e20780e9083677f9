"""The what verb, on a bundled crash."""

from __future__ import annotations

import json

import msgspec
import pytest
from support import ROOT

from vmaforensics.cli.main import main
from vmaforensics.crash.what_document import WhatDocument
from vmaforensics.errors import ExitCode

IMAGE = str(ROOT / "samples/debian-6.1-crash/image.kdump")
pytestmark = pytest.mark.image


def test_a_symbol_leads_to_a_task_and_its_address_to_the_same(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["what", IMAGE, "init_task", "init_task+10", "--format", "json"]) == ExitCode.OK
    document = msgspec.json.decode(capfd.readouterr().out.encode(), type=WhatDocument)
    first, second = (answer.pointer for answer in document.answers)
    assert (first.name, first.place) == ("init_task", "symbol")
    assert first.text.startswith("init_task+0x0/0x")
    assert second.text.startswith("init_task+0x10/0x")
    assert int(second.value, 16) - int(first.value, 16) == 0x10
    assert f"crash: sym {first.value}" in first.lines


def test_the_task_that_died_is_an_object_of_its_cache(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["crash", IMAGE, "--format", "json"]) == ExitCode.OK
    death = json.loads(capfd.readouterr().out)["death"]
    assert main(["what", IMAGE, death["task"]]) == ExitCode.OK
    text = capfd.readouterr().out
    assert f"allocated task_struct {death['task']}: pid {death['pid']} ({death['comm']})" in text
    assert f"crash: struct task_struct {death['task']}" in text


def test_an_address_that_is_no_number_and_no_symbol_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["what", IMAGE, "no_such_symbol"]) == ExitCode.USAGE
    assert "no_such_symbol" in capfd.readouterr().err


def test_a_process_that_is_not_there_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["what", IMAGE, "0", "--pid", "4999999"]) == ExitCode.USAGE
    assert "4999999" in capfd.readouterr().err
