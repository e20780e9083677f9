"""The road that shows memory maps, as a part of the document: what was read, and whether it is the kernel's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.checks.finding import Severity
from vmaforensics.columns.lookup import distinct
from vmaforensics.report.document.parts import Part
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.road.road import RoadView

CHAPTER = "road"  # of the rules on it


class RoadPart(Part, frozen=True):
    """Code, tables, modules and hooks of the kernel."""

    verdict: str
    clean: bool  # no finding of its rules above low
    read: tuple[str, ...]  # what was looked at, with how many of it
    unread: tuple[str, ...]  # what was not in the image
    users: tuple[str, ...]  # who has a hand in it, by kind; empty: nobody
    rules: tuple[str, ...]  # of its findings, the most severe first


def road_part(road: RoadView | None, findings: Iterable[Finding], rules: Iterable[str]) -> RoadPart | None:
    """What there is to say; None where it was not read. ``rules`` are the ids of the rules on it."""
    if road is None:
        return None
    known = set(rules)
    mine = sorted((item for item in findings if item.rule.id in known), key=lambda item: item.severity.rank)
    serious = [item for item in mine if item.severity.rank < Severity.LOW.rank]
    unread = tuple(_unread(road))
    users = tuple(road_users(road))
    if serious:
        verdict = f"not the kernel's own alone: {counted(len(serious), 'finding')} above low"
    elif unread:
        verdict = "nothing foreign in what could be read"
    else:
        verdict = "the kernel's own" + (", and hooks whose owners are known" if users else "")
    return RoadPart(
        verdict=verdict,
        clean=not serious,
        read=tuple(road_read(road)),
        unread=unread,
        users=users,
        rules=tuple(dict.fromkeys(item.rule.id for item in mine)),
    )


def road_read(road: RoadView) -> Iterator[str]:
    """What was looked at, with how many of it."""
    sites = road.sites
    for count, what in (
        (len(road.pointers), "pointer"),
        (sites.entries, "traceable function"),
        (sites.calls, "static call"),
        (sites.labels, "jump label"),
        (road.flow.instructions, "instruction"),
        (len(road.loaded.modules), "module"),
        (len(road.foreign.executable), "executable page"),
    ):
        if count:
            yield counted(count, what)
    if road.text.compared:
        yield f"{counted(road.text.compared, 'byte')} of code beside the kernel's file"


def road_users(road: RoadView) -> Iterator[str]:
    """Who has a hand in it: kprobes, tracers, live patches and BPF programs, with how many there are."""
    linked = int(road.tracers.ops.linked.sum())
    for count, what, ending in (
        (len(road.probes.probes), "kprobe", "s"),
        (linked, "function tracer", "s"),
        (len(distinct(road.replaced.patch)), "live patch", "es"),
        (len(road.programs.programs), "BPF program", "s"),
    ):
        if count:
            yield counted(count, what, ending)


def _unread(road: RoadView) -> Iterator[str]:
    """What was not in the image."""
    sites = road.sites
    if not sites.entries:
        yield "entries of functions"
    if not sites.calls:
        yield "static calls"
    if not sites.labels:
        yield "jump labels"
    if sites.unread:
        yield counted(sites.unread, "patched place")
    if road.unread:
        yield counted(road.unread, "pointer")
    if road.text.asked and not road.text.compared:
        yield "code to compare with the kernel's file"
    if road.text.unread:
        yield f"{counted(road.text.unread, 'page')} of code to compare with the kernel's file"
    yield from (f"the rest of {what}" for what in road.cut_short)
    if road.foreign.unread:
        yield counted(road.foreign.unread, "executable page")
    if road.foreign.left_out:
        yield f"{counted(road.foreign.left_out, 'executable page')} beyond the bound"
