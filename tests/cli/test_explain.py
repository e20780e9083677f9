from __future__ import annotations

import pytest

from vmaforensics.checks.guide import guide_of
from vmaforensics.checks.rules import RULES
from vmaforensics.cli.main import main
from vmaforensics.errors import ExitCode
from vmaforensics.report.document.attack import TECHNIQUES


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_is_explained_in_full(rule: object, capsys: pytest.CaptureFixture[str]) -> None:
    (known,) = (one for one in RULES if one is rule)
    assert main(["explain", known.id]) == ExitCode.OK
    text = " ".join(capsys.readouterr().out.split())
    guide = guide_of(known)
    assert guide is not None, "a new rule needs its guide in checks/guide_*.py"
    for part in (known.id, known.severity.value, known.why, guide.compares, guide.transient, *known.benign):
        assert " ".join(part.split()) in text
    for view in guide.views:
        assert view.label in text
    for line in guide.by_hand:
        assert " ".join(line.split()) in text
        assert line.startswith(("crash: ", "drgn: "))
    for technique in known.attack:
        assert f"{technique} {TECHNIQUES[technique]}" in text


def test_without_a_rule_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [rule.id for rule in RULES]
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


def test_every_guide_is_that_of_a_rule() -> None:
    from vmaforensics.checks.guide_index import INDEX
    from vmaforensics.checks.guide_others import OTHERS
    from vmaforensics.checks.guide_pages import PAGES

    assert sorted([*INDEX, *OTHERS, *PAGES]) == sorted(rule.id for rule in RULES)
