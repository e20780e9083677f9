"""The section of the report as text on the road that shows memory maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.report.document.document import Document
    from vmaforensics.report.document.road_part import RoadPart
    from vmaforensics.report.formats.terminal import Page

TITLE = "The road that shows memory maps"


def road_section(page: Page, document: Document) -> None:
    """Whether the kernel's code and tables are its own, what was looked at, and who has a hand in it."""
    road = document.road
    if road is None:
        return
    page.heading(TITLE)
    for label, text in road_rows(road):
        page.wrapped(f"{label:10}", text, style="label")
    page.gap()


def road_rows(road: RoadPart) -> Iterator[tuple[str, str]]:
    """What there is to say, labelled."""
    yield "verdict", road.verdict + (f" ({', '.join(road.rules)})" if road.rules else "")
    if road.read:
        yield "read", ", ".join(road.read)
    yield "hooks", ", ".join(road.users) or "none"
    if road.unread:
        yield "unread", f"{', '.join(road.unread)}: not in the image"
