"""Whether the machine stood still, by its clocks; what of a live image stands; on views and clocks made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from handmade import BASE

from checks.handmade_clocks import SECOND, SIZE, START, clocks, reading_time
from checks.handmade_views import INODES, MMS, PAGE, TASKS, Process, drop_entry, mm_of, task_of, views_of
from vmaforensics.checks.acquisition import Acquired, judge
from vmaforensics.checks.context import Context
from vmaforensics.checks.finding import Evidence, Finding
from vmaforensics.checks.reading import Reading, Rest, Span, rested
from vmaforensics.checks.registry import all_rules
from vmaforensics.checks.weigh import run_checks
from vmaforensics.views.clocks.samples import Bound, Clock, TimeSamples
from vmaforensics.views.pages.table_roots import TableRoots
from vmaforensics.views.problems import Problem, Problems
from vmaforensics.views.slab.torn_slabs import TornSlabs
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.views.views import Views


def hidden(ran: float, *, live: bool = True) -> tuple[Views, Context]:
    """A process that last ran then, of which the maple tree lacks a VMA; and one without fault."""
    lines = ("400000-402000 r-xp /bin/cat", "500000-503000 rw-p", "7f0000-7f4000 rw-p [stack]")
    views = views_of(Process(pid=100, vmas=lines), Process(pid=101))
    drop_entry(views, 0x500000)
    views.clocks = clocks(live=live, ran={100: ran, 101: 1.0})
    return views, Context(views)


def test_clocks_that_agree_say_that_the_machine_stood_still() -> None:
    found = judge(clocks(live=False))
    assert (found.how, found.times) == (Acquired.ATOMIC, None)


def test_clocks_that_are_apart_say_when_memory_was_read() -> None:
    found = judge(clocks())
    assert found.how is Acquired.LIVE
    assert found.times is not None
    assert found.times.start / SECOND == pytest.approx(START, abs=1)
    assert found.times.end / SECOND == pytest.approx(START + 160, abs=4)


def test_one_wild_time_does_not_make_an_image_live() -> None:
    assert judge(clocks(live=False, extra=[(START + 500) * SECOND])).how is Acquired.ATOMIC


@pytest.mark.parametrize(("tasks", "how"), [(1, Acquired.ATOMIC), (2, Acquired.LIVE)])
def test_running_tasks_that_stand_still_tell_of_another_moment(tasks: int, how: Acquired) -> None:
    """All clocks of the kernel lie in the part of memory that was read last."""
    known = clocks(live=False)
    rows = known.samples.take(known.samples.pa >= SIZE // 2)
    rows.clock[:1] = Clock.TIMEKEEPER
    run = TimeSamples.of(
        tasks,
        pa=[PAGE * (number + 1) for number in range(tasks)],
        time=[(START - 10) * SECOND] * tasks,
        bound=[Bound.EXACT] * tasks,
        clock=[Clock.TASK_RUNS] * tasks,
    )
    found = judge(replace(known, samples=TimeSamples.concatenate([run, rows])))
    assert found.how is how
    if how is Acquired.LIVE:
        assert found.spread == 10 * SECOND


def stale(pages: int, kinds: int) -> Problems:
    """Links from so many pages, of records of so many kinds, to memory that holds something else."""
    views = [View.MAPLE, View.FILE_RMAP, View.SLAB][:kinds]
    return Problems.of(
        pages,
        view=[views[number % kinds] for number in range(pages)],
        problem=[Problem.STALE] * pages,
        where=[BASE + PAGE * number for number in range(pages)],
    )


@pytest.mark.parametrize(
    ("pages", "kinds", "how"),
    [(16, 3, Acquired.LIVE), (15, 3, Acquired.ATOMIC), (64, 2, Acquired.ATOMIC)],
)
def test_many_links_to_what_is_something_else_by_now_tell_of_pages_of_another_moment(
    pages: int, kinds: int, how: Acquired
) -> None:
    """All clocks lie in memory of one moment."""
    found = judge(clocks(live=False), problems=stale(pages, kinds))
    assert (found.how, found.by_clocks, found.times) == (how, Acquired.ATOMIC, None)
    assert found.stale == (pages if how is Acquired.LIVE else 0)
    assert judge(clocks(live=False), Acquired.ATOMIC, stale(pages, kinds)).how is Acquired.ATOMIC
    assert judge(clocks(live=False, panicked=True), problems=stale(pages, kinds)).how is Acquired.ATOMIC
    assert (judge(None, problems=stale(pages, kinds)).how is Acquired.LIVE) is (how is Acquired.LIVE)


def torn(slabs: int, caches: int) -> TornSlabs:
    """So many slabs of so many caches of which others count other free objects."""
    return TornSlabs.of(
        slabs,
        base=[BASE + PAGE * number for number in range(slabs)],
        cache=[BASE + number % caches for number in range(slabs)],
    )


@pytest.mark.parametrize(
    ("slabs", "caches", "links", "kinds", "how"),
    [
        (3, 3, 0, 0, Acquired.LIVE),
        (2, 2, 3, 1, Acquired.ATOMIC),  # as errors of a kernel come to, and who makes use of them
        (64, 2, 0, 0, Acquired.ATOMIC),
        (2, 2, 4, 1, Acquired.LIVE),
        (1, 1, 10, 1, Acquired.ATOMIC),
        (1, 1, 10, 2, Acquired.LIVE),
    ],
)
def test_slabs_that_are_not_of_the_moment_of_what_counts_them_weigh_six_links(
    slabs: int, caches: int, links: int, kinds: int, how: Acquired
) -> None:
    """All clocks lie in memory of one moment; caches and records of links are kinds alike."""
    found = judge(clocks(live=False), problems=stale(links, kinds), slabs=torn(slabs, caches))
    assert (found.how, found.by_clocks, found.times) == (how, Acquired.ATOMIC, None)
    assert (found.torn, found.stale) == ((slabs, links) if how is Acquired.LIVE else (0, 0))
    given = judge(clocks(live=False), Acquired.ATOMIC, stale(links, kinds), torn(slabs, caches))
    assert given.how is Acquired.ATOMIC
    panicked = judge(clocks(live=False, panicked=True), problems=stale(links, kinds), slabs=torn(slabs, caches))
    assert panicked.how is Acquired.ATOMIC


@pytest.mark.parametrize(
    ("behind", "slabs", "how"),
    [
        (0.14, torn(0, 1), Acquired.ATOMIC),  # as on a host that lets its guests wait
        (0.14, torn(1, 1), Acquired.LIVE),
        (0.14, None, Acquired.LIVE),  # nobody has looked
        (0.5, torn(0, 1), Acquired.LIVE),
    ],
)
def test_clocks_of_cpus_that_a_host_let_wait_are_a_little_behind_at_one_moment(
    behind: float, slabs: TornSlabs | None, how: Acquired
) -> None:
    known = clocks(live=False)
    known.samples.time[:8] -= int(behind * SECOND)
    assert judge(known, problems=stale(0, 1), slabs=slabs).how is how


def test_what_the_clocks_say_needs_no_slabs() -> None:
    found = judge(clocks(), slabs=torn(64, 8))
    assert (found.how, found.torn) == (Acquired.LIVE, 0)
    assert found.times is not None


def test_one_running_task_is_a_clock_where_links_tell_of_another_moment() -> None:
    known = clocks(live=False)
    rows = known.samples.take(known.samples.pa >= SIZE // 2)
    rows.clock[:1] = Clock.TIMEKEEPER
    run = rows.take(np.zeros(1, np.int64)).replace(
        pa=np.array([SIZE // 4], np.uint64),
        time=np.array([(START - 10) * SECOND]),
        clock=np.full(1, Clock.TASK_RUNS, rows.clock.dtype),
    )
    known = replace(known, samples=TimeSamples.concatenate([run, rows]))
    assert judge(known).how is Acquired.ATOMIC
    found = judge(known, problems=stale(16, 3))
    assert found.times is not None
    assert found.times.at(np.array([SIZE // 4], np.uint64)).time.tolist() == [(START - 10) * SECOND]


def test_running_tasks_are_clocks_where_the_kernel_has_none() -> None:
    known = clocks()
    rows = known.samples.take(known.samples.pa >= SIZE // 2)
    rows.clock[:1] = Clock.TIMEKEEPER
    run = rows.take(np.zeros(1, np.int64)).replace(
        pa=np.array([SIZE // 4], np.uint64),
        time=np.array([(START + 10) * SECOND]),
        clock=np.full(1, Clock.TASK_RUNS, rows.clock.dtype),
    )
    found = judge(replace(known, samples=TimeSamples.concatenate([run, rows])))
    assert found.times is not None
    assert found.times.at(np.array([SIZE // 4], np.uint64)).time.tolist() == [(START + 10) * SECOND]


def test_a_kernel_that_has_panicked_stands_still_whatever_its_clocks_say() -> None:
    found = judge(clocks(panicked=True))
    assert (found.how, found.panicked) == (Acquired.ATOMIC, True)


def test_what_was_given_overrules_the_clocks() -> None:
    found = judge(clocks(), Acquired.ATOMIC)
    assert (found.how, found.by_clocks, found.given, found.live) == (Acquired.ATOMIC, Acquired.LIVE, True, False)


def test_too_few_clocks_say_nothing() -> None:
    assert judge(None).how is Acquired.UNKNOWN
    few = clocks(live=False)
    assert judge(replace(few, samples=few.samples.take(np.array([0])))).how is Acquired.UNKNOWN


def test_what_is_hidden_in_a_process_that_rests_is_found_in_a_live_image() -> None:
    _, context = hidden(ran=600)
    (found,) = (finding for finding in run_checks(context) if finding.rule.id == "VMA-MISSING")
    assert (found.severity.value, found.pid) == ("high", 100)
    assert "last ran" in found.evidence[-1].what
    (stood,) = context.read_apart
    assert (stood.pid, stood.torn) == (100, False)


def test_what_contradicts_itself_in_a_process_that_ran_meanwhile_is_torn() -> None:
    _, context = hidden(ran=START + 5)
    assert [finding for finding in run_checks(context) if finding.severity.value != "info"] == []
    (torn,) = context.read_apart
    assert (torn.pid, torn.torn, torn.ran, "VMA-MISSING" in torn.rules) == (100, True, True, True)
    assert torn.apart / SECOND == pytest.approx(40, abs=3)  # from its task to the nodes of its tree


def test_the_same_is_a_finding_if_the_machine_stood_still() -> None:
    _, context = hidden(ran=START + 5, live=False)
    assert [finding.rule.id for finding in run_checks(context) if finding.severity.value == "high"] == ["VMA-MISSING"]


@pytest.mark.parametrize(("slept", "rests"), [(150, True), (50, False)])
def test_who_ran_after_memory_began_to_be_read_rests_if_it_slept_many_times_as_long(slept: int, *, rests: bool) -> None:
    known, beyond = START + 200, 10
    rest = Rest(ran=(known - slept) * SECOND, known=known * SECOND, place=0, lived=(known + beyond) * SECOND)
    span = Span((known - 1) * SECOND, known * SECOND, (known + beyond) * SECOND, (known + beyond) * SECOND, PAGE)
    assert rested(rest, span, START * SECOND) is rests


def test_who_had_slept_too_short_to_be_taken_to_sleep_on_is_not_resting() -> None:
    _, context = hidden(ran=reading_time(TASKS) - 5.0)  # its mm_struct is read 10 s after its task, its nodes 40 s
    assert reading_time(MMS) - reading_time(TASKS) == 10
    assert all(finding.severity.value == "info" for finding in run_checks(context))


@pytest.mark.parametrize(("place", "stands"), [(INODES, True), (MMS, False)])
def test_who_had_not_slept_for_very_long_has_to_have_lived_on_by_what_was_read_last(
    place: int, *, stands: bool
) -> None:
    """Slept for 110 s; its mm_struct is read 30 s before the last of its records, its top-level table's page there."""
    views, context = hidden(ran=900)
    mms = views.mms.mm
    views.table_roots = TableRoots(
        mm=mms, ok=np.ones(len(mms), np.bool_), word=np.full(len(mms), place, np.uint64), owner=mms
    )
    assert [finding.rule.id for finding in run_checks(context) if finding.severity.value == "high"] == (
        ["VMA-MISSING"] * stands
    )


def test_memory_that_was_not_read_by_ascending_addresses_has_no_reading_times() -> None:
    known = clocks()
    last = known.samples.take(np.arange(len(known.samples) - 6, len(known.samples)))
    rows = last.replace(
        pa=np.arange(6, dtype=np.uint64) * np.uint64(4096), bound=np.full(6, Bound.LOWER, last.bound.dtype)
    )
    samples = TimeSamples.concatenate([known.samples, rows])
    found = judge(replace(known, samples=samples.sort_by(samples.pa)))
    assert (found.how, found.times) == (Acquired.LIVE, None)


def test_a_process_of_which_a_thread_was_not_read_is_not_resting() -> None:
    views, context = hidden(ran=600)
    assert views.clocks is not None
    views.clocks.tasks.ok[0] = False
    assert all(finding.severity.value == "info" for finding in run_checks(context))


def test_places_of_handmade_views_are_what_these_tests_take_them_for() -> None:
    assert mm_of(1) - MMS == PAGE
    assert task_of(1) - TASKS == PAGE


@pytest.mark.parametrize(("rule", "late"), [("VMA-LINK", True), ("VMA-RANGE", False)])
def test_a_broken_link_was_read_where_the_struct_page_says_what_it_leads_to(rule: str, *, late: bool) -> None:
    views = views_of(Process(pid=100))
    views.clocks = known = clocks(ran={100: 1.0})
    known.places._pages, known.places._page = INODES, 64  # vmemmap lies behind all records
    context = Context(views)
    times = context.acquisition.times
    assert times is not None
    evidence = Evidence(what="", view=View.MAPLE.label, address=int(views.vmas.vma[0]), found=f"{mm_of(100):#x}")
    (record,) = (known for known in all_rules() if known.id == rule)
    finding = Finding(
        rule=record,
        severity=record.severity,
        confidence=record.confidence,
        mm=mm_of(100),
        pid=100,
        comm=b"",
        title="",
        evidence=(evidence,),
    )
    span = Reading(views, known, times).span(finding)
    assert span is not None
    assert (span.ended / SECOND > reading_time(INODES) - 1) is late


def test_clocks_that_all_lie_in_pages_of_one_moment_are_not_believed_against_many_tasks() -> None:
    known = clocks(live=False)
    rows = known.samples.take(np.zeros(6, np.int64))
    rows = rows.replace(
        pa=np.arange(1, 7, dtype=np.uint64) * np.uint64(8192),
        time=np.full(6, (START + 30) * SECOND, np.int64),
        bound=np.full(6, Bound.LOWER, rows.bound.dtype),
        clock=np.full(6, Clock.TASK_RAN, rows.clock.dtype),
    )

    def how(count: int) -> Acquired:
        samples = TimeSamples.concatenate([known.samples, rows.take(np.arange(count))])
        return judge(replace(known, samples=samples.sort_by(samples.pa))).how

    assert (how(4), how(6)) == (Acquired.ATOMIC, Acquired.LIVE)
