"""A difference as text: the summary first, then what an analyst would look at, then what comes and goes anyway."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from vmaforensics.report.formats.terminal import Page
from vmaforensics.words.amounts import counted, plural

if TYPE_CHECKING:
    from vmaforensics.report.document.diff import Difference, FindingChange, ProcessChange, RegionChange

_PROCESSES = 20  # of each kind that are listed unless more detail is asked for
_REGIONS = 6  # of one process
_WORDS = {"came": "new", "went": "gone", "changed": "changed"}
_MARKS = {"came": "+", "went": "-", "changed": "~"}
_ODD = ("seen", "perms", "flags", "readable")  # facts of a region that growth and trimming do not change


def render_diff(found: Difference, *, detail: int = 0, color: bool = False, width: int | None = None) -> str:
    """The text. -1: the summary. 0: also findings, processes, and the regions that matter most. 1 and more: all."""
    page = Page(width=width, color=color)
    _summary(page, found)
    if detail < 0:
        return page.text()
    _persisting(page, found, detail)
    _findings(page, found, detail)
    _processes(page, found, detail)
    return page.text()


def summary(found: Difference) -> str:
    """The outcome in one sentence."""
    parts = [_counted(found.findings, "finding"), _counted(found.processes, "process", "es")]
    regions = [region for process in found.processes for region in process.regions]
    parts.append(_counted(regions, "region"))
    stays = sum(row.torn for row in found.persisting)
    parts.append(f"{counted(stays, 'contradiction')} torn in each that stays" if stays else "")
    text = "; ".join(part for part in parts if part)
    return f"{text}." if text else "Nothing is different."


def _counted(
    changes: tuple[FindingChange, ...] | tuple[ProcessChange, ...] | list[RegionChange], noun: str, ending: str = "s"
) -> str:
    counts: Counter[str] = Counter(change.how for change in changes)
    numbers = [f"{counts[how]} {word}" for how, word in _WORDS.items() if counts[how]]
    return f"{', '.join(numbers)} {plural(len(changes), noun, ending)}" if numbers else ""


def _summary(page: Page, found: Difference) -> None:
    serious = any(change.how == "came" and change.finding.severity in ("critical", "high") for change in found.findings)
    page.wrapped("SUMMARY   ", summary(found), style="heading", look="high" if serious else "")
    for label, side in (("BEFORE    ", found.before), ("AFTER     ", found.after)):
        when = f", taken {side.clock}" if side.clock else ""
        holds = (
            f"{counted(side.processes, 'process', 'es')}, {counted(side.regions, 'region')}, "
            f"{counted(side.findings, 'finding')}"
        )
        page.wrapped(label, f"{side.path}{when}: {holds}", style="heading")
    for note in found.notes:
        page.wrapped("NOTE      ", note, style="heading")
    page.gap()


def _persisting(page: Page, found: Difference, detail: int) -> None:
    """What stays the same: it was no matter of the moment at which it was read."""
    shown = [row for row in found.persisting if detail > 0 or row.severity not in ("low", "info")]
    if not shown:
        return
    page.heading("Persists in both")
    for row in shown:
        page.line(
            ("= torn in each " if row.torn else "= found in both ", "mark"),
            (f"{row.severity.upper():8}", row.severity),
            f"  {row.rule}  pid {row.pid} ({row.comm})",
        )
        for what in row.what if detail > 0 else row.what[:_REGIONS]:
            page.wrapped("    ", what)
        if detail <= 0 and len(row.what) > _REGIONS:
            page.line(f"      {len(row.what) - _REGIONS} more (-v shows them)")
    page.gap()


def _findings(page: Page, found: Difference, detail: int) -> None:
    shown = [change for change in found.findings if detail > 0 or change.finding.severity != "info"]
    if not found.findings:
        return
    page.heading("Findings")
    for change in shown:
        item = change.finding
        where = "" if item.start is None else f"  {item.start}-{(item.end or '0x?')[2:]}"
        page.line(
            (f"{_MARKS[change.how]} {_WORDS[change.how]:8}", "mark"),
            (f"{item.severity.upper():8}", item.severity),
            f"  {item.rule}  pid {item.pid} ({item.comm}){where}  {item.id}",
        )
        page.wrapped("    ", item.title)
        for fact in change.changes:
            page.wrapped(f"    {fact.fact}: ", f"{fact.before} → {fact.after}")
    hidden = len(found.findings) - len(shown)
    if hidden:
        page.line(f"  {counted(hidden, 'more minor finding')} (-v shows them)")
    page.gap()


def _processes(page: Page, found: Difference, detail: int) -> None:
    for how in ("came", "went", "changed"):
        chosen = [change for change in found.processes if change.how == how]
        if not chosen:
            continue
        page.heading(f"Processes: {_WORDS[how]}")
        if how == "changed":  # the strangest first
            chosen.sort(key=lambda change: -max((_weight(region) for region in change.regions), default=0))
        for change in chosen if detail > 0 else chosen[:_PROCESSES]:
            _process(page, change, detail)
        if detail <= 0 and len(chosen) > _PROCESSES:
            page.line(f"  {len(chosen) - _PROCESSES} more (-v shows them)")
        page.gap()


def _process(page: Page, process: ProcessChange, detail: int) -> None:
    started = f", started {process.started}" if process.started else ""
    held = process.regions_before if process.how == "went" else process.regions_after
    counts = _counted(list(process.regions), "region") or counted(held, "region")
    changed = "another memory map, as after execve" if process.replaced else counts
    page.line((f"{_MARKS[process.how]} ", "mark"), f"pid {process.pid} ({process.comm}){started}: {changed}")
    for fact in process.changes:
        if fact.fact != "mm" or not process.replaced:
            page.wrapped(f"      {fact.fact}: ", f"{fact.before} → {fact.after}")
    shown = list(process.regions)
    if detail <= 0 and len(shown) > _REGIONS:
        kept = sorted(range(len(shown)), key=lambda at: (-_weight(shown[at]), at))[:_REGIONS]
        shown = [shown[at] for at in sorted(kept)]
    page.table([_region(item) for item in shown], indent=4)
    if len(process.regions) > len(shown):
        page.line(f"      {len(process.regions) - len(shown)} more (-v shows them)")


def _region(item: RegionChange) -> list[str]:
    region = item.region
    facts = ", ".join(f"{change.fact} {change.before} → {change.after}" for change in item.changes)
    span = f"{region.start[2:]}-{region.end[2:]}"
    return [_MARKS[item.how], span, region.perms, region.name or region.kind, facts]


def _weight(item: RegionChange) -> int:
    """How much a change deserves to be looked at: an index that lost or gained a region, other permissions,
    executable memory, the rest."""
    facts = {change.fact for change in item.changes}
    if "seen" in facts or "readable" in facts:
        return 4
    if facts & set(_ODD):
        return 3
    return 2 if "x" in item.region.perms else 1
