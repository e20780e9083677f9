"""The page of a crash case as one self-contained HTML file, in the look of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.crash.text import COMPLAINTS, crash_sections
from vmaforensics.report.document.crash_short import short_form
from vmaforensics.report.formats.crash_text import death_rows, told_first
from vmaforensics.report.formats.html.render import asset, environment, policy
from vmaforensics.version import __version__
from vmaforensics.words.amounts import amount, counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.crash.document import CrashDocument

_MOST_SECTIONS = 200
_MOST_LINES = 2000  # of a section


def render_crash_html(document: CrashDocument) -> bytes:
    """The whole page: UTF-8, one file that refers to nothing outside itself, the same bytes each time."""
    style, headline = asset("style.css"), _headline(document)
    sections = [section for section in crash_sections(document) if section.title != COMPLAINTS][:_MOST_SECTIONS]
    page = (
        environment()
        .get_template("crash_page.html")
        .render(
            document=document,
            crash=short_form(document),
            sections=[
                (f"s-{place}", section.title, section.lines[:_MOST_LINES]) for place, section in enumerate(sections)
            ],
            facts=list(_facts(document)),
            tone=_tone(document),
            headline=headline,
            summary=document.verdict.removeprefix(f"{headline.rstrip('.')}: "),  # it need not be said twice
            version=__version__,
            style=style,
            policy=policy(style),
            death_rows=death_rows,
            told_first=told_first,
            more_of_it=False,
        )
    )
    return page.encode()


def _tone(document: CrashDocument) -> str:
    if document.death is not None:
        return "high"
    return "medium" if document.complaints else "unknown" if document.not_assessed else "clear"


def _headline(document: CrashDocument) -> str:
    if document.death is not None:
        return "This kernel crashed."
    return "This kernel complained." if document.complaints else "This kernel had not crashed."


def _facts(document: CrashDocument) -> Iterator[tuple[str, str]]:
    machine, taint = document.machine, document.taint
    yield "Kernel", f"{machine.release}, {machine.architecture}"
    if machine.hostname:
        yield "Host", machine.hostname
    if machine.crashed is not None:
        yield "Crashed", machine.crashed
    elif machine.clock is not None:
        yield "Taken", machine.clock
    if machine.booted is not None:
        yield "Booted", machine.booted
    cpus = "" if machine.cpus is None else f"; {counted(machine.cpus, 'CPU')} online"
    yield "Machine", f"{machine.hardware or 'unknown'}{cpus}; {amount(int(machine.ram, 16))}"
    if machine.command_line is not None:
        yield "Command", machine.command_line
    yield "Taint", "cannot be read" if taint.mask is None else "; ".join(taint.words) or "none"
