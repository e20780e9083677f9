"""Weighing by the mmap lock, and joining of what has one cause."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from checks.handmade_views import Process, mm_of, views_of
from vmaforensics.checks.context import Context
from vmaforensics.checks.finding import Confidence, Evidence, Finding, Severity
from vmaforensics.checks.in_flight import InFlight
from vmaforensics.checks.registry import all_rules, rule, rule_modules
from vmaforensics.checks.rule import LAGS, Part
from vmaforensics.checks.weigh import join, run_checks
from vmaforensics.checks.weigh import weigh as weigh_by
from vmaforensics.views.structures.lock import Lock

if TYPE_CHECKING:
    from collections.abc import Iterator

HIGH_RULES = [known for known in all_rules() if known.severity.rank < Severity.LOW.rank]


def _finding(
    rule_id: str,
    span: tuple[int, int] | None = None,
    *,
    mm: int = 1,
    severity: Severity = Severity.HIGH,
    lock: Lock = Lock.FREE,
) -> Finding:
    """A finding whose title and only evidence are its rule's id."""
    start, end = span or (None, None)
    return Finding(
        rule=rule(rule_id),
        severity=severity,
        confidence=Confidence.HIGH,
        mm=mm,
        pid=mm,
        comm=b"",
        title=rule_id,
        evidence=(Evidence(what=rule_id, view="", address=0),),
        start=start,
        end=end,
        lock=lock.text,
    )


def weigh(finding: Finding) -> Finding:
    """Weighed where no stacks are known."""
    return weigh_by(finding, InFlight(views_of()))


def _joined(*findings: Finding) -> list[tuple[str, tuple[str, ...]]]:
    """(rule, evidence) of each finding that is left, by rule; in whatever order they came."""
    answers = {
        tuple(sorted((found.rule.id, tuple(item.what for item in found.evidence)) for found in join(order)))
        for order in permutations(findings)
    }
    (answer,) = answers
    return list(answer)


# The lock ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", HIGH_RULES, ids=lambda known: known.id)
def test_a_write_held_lock_excuses_every_finding(known: object) -> None:
    (rule_id,) = (other.id for other in HIGH_RULES if other is known)
    weighed = weigh(_finding(rule_id, lock=Lock.WRITE))
    assert (weighed.severity, weighed.confidence) == (Severity.LOW, Confidence.LOW)
    assert weighed.evidence[-1].what == "the mmap lock was write-held: the map was being changed"


@pytest.mark.parametrize("known", HIGH_RULES, ids=lambda known: known.id)
def test_a_read_held_lock_excuses_records_that_lag(known: object) -> None:
    (found,) = (_finding(other.id, lock=Lock.READ) for other in HIGH_RULES if other is known)
    assert (weigh(found) != found) == (found.rule.excused_by == LAGS)


@pytest.mark.parametrize("lock", [Lock.FREE, Lock.UNKNOWN])
def test_a_lock_that_is_free_or_not_known_excuses_nothing(lock: Lock) -> None:
    found = _finding("VMA-MISSING", lock=lock)
    assert weigh(found) is found


@pytest.mark.parametrize("severity", [Severity.LOW, Severity.INFO])
def test_what_says_little_stays_as_it_is(severity: Severity) -> None:
    found = _finding("VMA-MISSING", severity=severity, lock=Lock.WRITE)
    assert weigh(found) is found


def test_the_lock_is_that_of_the_address_space() -> None:
    views = views_of(Process(pid=100, lock=Lock.WRITE), Process(pid=101))
    views.mms.map_count[:] += 1
    views.mms.total_vm[:] += 1
    held, free = sorted(run_checks(Context(views)), key=lambda found: found.pid)
    assert (held.mm, held.severity, free.mm, free.severity) == (mm_of(100), Severity.LOW, mm_of(101), Severity.HIGH)


# One cause ---------------------------------------------------------------------------------------------------


def test_a_cause_takes_up_the_traces_of_its_address_space() -> None:
    joined = _joined(_finding("VMA-MISSING", (1, 9)), _finding("MT-GAP"), _finding("VMA-LINK", (50, 60)))
    assert joined == [("VMA-MISSING", ("VMA-MISSING", "MT-GAP", "VMA-LINK"))]


def test_a_trace_goes_to_the_cause_it_overlaps() -> None:
    joined = _joined(_finding("VMA-RANGE", (1, 9)), _finding("PTE-ORPHAN", (20, 30)), _finding("MT-GAP", (25, 40)))
    assert joined == [("PTE-ORPHAN", ("PTE-ORPHAN", "MT-GAP")), ("VMA-RANGE", ("VMA-RANGE",))]


def test_traces_without_a_cause_stay() -> None:
    assert [name for name, _ in _joined(_finding("MT-GAP", (1, 9)), _finding("MM-COUNTER"))] == ["MM-COUNTER", "MT-GAP"]


def test_nothing_is_joined_across_address_spaces_or_without_one() -> None:
    assert len(_joined(_finding("VMA-MISSING", (1, 9)), _finding("MT-GAP", (1, 9), mm=2))) == 2
    assert len(_joined(_finding("VMA-MISSING", (1, 9), mm=0), _finding("MT-GAP", (1, 9), mm=0))) == 2


def test_of_causes_that_overlap_the_lower_rank_takes_up_the_other() -> None:
    assert _joined(_finding("PTE-ORPHAN", (1, 9)), _finding("VMA-SLAB-ORPHAN", (5, 12))) == [
        ("VMA-SLAB-ORPHAN", ("VMA-SLAB-ORPHAN", "PTE-ORPHAN"))
    ]
    assert len(_joined(_finding("PTE-ORPHAN", (1, 5)), _finding("VMA-SLAB-ORPHAN", (5, 12)))) == 2


def test_the_worse_severity_stays() -> None:
    (found,) = join([_finding("VMA-RANGE", (1, 9), severity=Severity.MEDIUM), _finding("PTE-PERM", (1, 9))])
    assert (found.rule.id, found.severity) == ("VMA-RANGE", Severity.HIGH)


def test_what_was_being_changed_takes_up_nothing_that_was_not() -> None:
    # fork copies a tree as a whole, and then puts its own VMAs into the copy, one by one
    excused = _finding("VMA-OWNER", (1, 99), severity=Severity.LOW)
    assert _joined(excused, _finding("VMA-PROT", (5, 6)), _finding("MT-GAP")) == [
        ("VMA-OWNER", ("VMA-OWNER",)),
        ("VMA-PROT", ("VMA-PROT", "MT-GAP")),
    ]
    assert _joined(excused, _finding("MT-GAP")) == [("MT-GAP", ("MT-GAP",)), ("VMA-OWNER", ("VMA-OWNER",))]
    assert _joined(excused, _finding("VMA-PROT", (5, 6), severity=Severity.LOW)) == [
        ("VMA-OWNER", ("VMA-OWNER", "VMA-PROT"))
    ]


def test_counts_that_name_no_range_take_it_from_what_does() -> None:
    (found,) = join([_finding("PTE-ORPHAN", (1, 9)), _finding("VMA-MISSING")])
    assert (found.rule.id, found.start, found.end) == ("VMA-MISSING", 1, 9)
    assert found.title == "VMA-MISSING: PTE-ORPHAN"


def test_a_vma_that_one_index_lacks_explains_counts() -> None:
    joined = _joined(_finding("VMA-UNLINKED", (1, 9)), _finding("VMA-SURPLUS"), _finding("VMA-MISSING", (50, 60)))
    assert joined == [("VMA-UNLINKED", ("VMA-UNLINKED", "VMA-MISSING", "VMA-SURPLUS"))]


def test_what_hidden_memory_leaves_behind_is_its_evidence() -> None:
    joined = _joined(_finding("VMA-RANGE", (50, 60)), _finding("PTE-ORPHAN", (1, 9)), _finding("ANCHOR-OUTSIDE"))
    assert joined == [("PTE-ORPHAN", ("PTE-ORPHAN", "ANCHOR-OUTSIDE")), ("VMA-RANGE", ("VMA-RANGE",))]
    assert len(_joined(_finding("VMA-RANGE", (50, 60)), _finding("ANCHOR-OUTSIDE"))) == 2


def test_what_stands_alone_is_taken_up_by_none() -> None:
    assert len(_joined(_finding("VMA-MISSING", (1, 9)), _finding("VMA-BOUNDS", (1, 9)))) == 2


def test_evidence_is_taken_up_once() -> None:
    (found,) = join([_finding("VMA-MISSING", (1, 9)), _finding("MT-GAP"), _finding("MT-GAP")])
    assert [item.what for item in found.evidence] == ["VMA-MISSING", "MT-GAP"]


def test_findings_are_in_order_of_severity_then_of_process() -> None:
    views = views_of(Process(pid=100), Process(pid=101))
    views.mms.map_count[:] += 1
    views.mms.total_vm[:] += 1
    views.vmas.flags[0] |= 2  # writable and executable: the sums of the first differ as well
    found = run_checks(Context(views))
    assert [(item.severity, item.pid) for item in found] == sorted(
        ((item.severity, item.pid) for item in found), key=lambda pair: (pair[0].rank, pair[1])
    )


# The records -------------------------------------------------------------------------------------------------


def test_ids_and_ranks_are_unique() -> None:
    rules = all_rules()
    assert len({known.id for known in rules}) == len({known.rank for known in rules}) == len(rules)


def test_only_causes_hide_memory_count_or_explain_counts() -> None:
    for known in all_rules():
        if known.hides or known.count or known.explains_counts:
            assert known.part is Part.CAUSE, known.id


def test_a_rule_is_in_the_file_of_its_name() -> None:
    from vmaforensics.checks.registry import rule_modules

    for module in rule_modules():
        assert module.path == f"checks/{module.chapter}/{module.rule.id.lower().replace('-', '_')}.py"
        assert module.doc.startswith(f"{module.rule.id}: ")


def test_a_rule_that_there_is_not() -> None:
    with pytest.raises(KeyError):
        rule("NO-SUCH-RULE")


def test_a_rule_that_goes_wrong_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    broken, sound = rule_modules()[:2]

    def check(context: Context) -> Iterator[Finding]:
        yield _finding(broken.rule.id)
        raise ValueError("no such row")

    def other(context: Context) -> Iterator[Finding]:
        yield _finding(sound.rule.id, mm=2)

    modules = (replace(broken, check=check), replace(sound, check=other))
    monkeypatch.setattr("vmaforensics.checks.weigh.rule_modules", lambda: modules)
    context = Context(views_of())
    assert {found.rule.id for found in run_checks(context)} == {broken.rule.id, sound.rule.id}
    assert context.failures == [
        f"internal error in the rule {broken.rule.id} (ValueError: no such row); please report it"
    ]
