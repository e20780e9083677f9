from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vmaforensics.checks.registry import all_rules
from vmaforensics.cli.main import main
from vmaforensics.errors import ExitCode
from vmaforensics.report.document.attack import TECHNIQUES

if TYPE_CHECKING:
    from vmaforensics.checks.rule import Rule


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.id)
def test_a_rule_is_explained_in_full(rule: Rule, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", rule.id]) == ExitCode.OK
    text = " ".join(capsys.readouterr().out.split())
    for part in (rule.id, rule.severity.value, rule.why, rule.compares, rule.transient, *rule.benign):
        assert " ".join(part.split()) in text
    for view in rule.views:
        assert view.label in text
    for line in rule.by_hand:
        assert " ".join(line.split()) in text
        assert line.startswith(("crash: ", "drgn: "))
    for technique in rule.attack:
        assert f"{technique} {TECHNIQUES[technique]}" in text


def test_without_a_rule_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [rule.id for rule in all_rules()]
    assert all(len(line) < 120 for line in lines)


def test_the_id_may_be_written_in_small_letters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "vma-missing"]) == ExitCode.OK
    assert capsys.readouterr().out.startswith("VMA-MISSING  severity high")


@pytest.mark.parametrize(
    ("name", "near"), [("VMA-MISING", "VMA-MISSING"), ("missing", "VMA-MISSING"), ("PTE", "PTE-ORPHAN")]
)
def test_an_unknown_rule_names_those_like_it(name: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", name]) == ExitCode.USAGE
    told = capsys.readouterr()
    assert near in told.err
    assert told.out == ""


def test_a_rule_like_none_points_at_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "\x1b[2J"]) == ExitCode.USAGE
    err = capsys.readouterr().err
    assert "lists all rules" in err
    assert "\x1b" not in err
