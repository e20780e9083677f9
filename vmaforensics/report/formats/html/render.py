"""Puts a document into the templates of this package.

Nothing of the document is ever trusted: the environment escapes every value, after the characters that could
act on a reader have been spelled out; geometry is integers; names of links are made of a small alphabet. The
policy in the page allows its own style and script by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from bisect import bisect_right
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup

from vmaforensics.report.formats.crash_text import death_rows, told_first
from vmaforensics.report.formats.html import legend
from vmaforensics.report.formats.html.amounts import extent, short
from vmaforensics.report.formats.html.cards import cards
from vmaforensics.report.formats.html.overview import SEVERITIES, overview
from vmaforensics.report.formats.html.processes import COUNTERS, processes
from vmaforensics.report.formats.html.reading_picture import reading_picture
from vmaforensics.report.formats.html.sections import sections
from vmaforensics.report.formats.road_text import TITLE, road_rows
from vmaforensics.words.amounts import counted
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from vmaforensics.report.document.document import Document
    from vmaforensics.report.document.findings import Finding

_ROOM_FOR_CARDS = 1_200_000  # bytes, by estimate; further findings become lines of a table
_MOST_FINDINGS = 1200
_MOST_NOT_ASSESSED = 500
_MOST_MATCHES = 500
_MOST_EVIDENCE = 60
_MOST_CHARACTERS, _MOST_OF_A_SENTENCE = 300, 1200  # of a name in a table; of what quotes names


def render_html(document: Document) -> bytes:
    """The whole report: UTF-8, one file that refers to nothing outside itself, the same bytes each time.

    What a large document holds beyond a few megabytes is left out, and the page says so and how to get it.
    """
    style, script = asset("style.css"), asset("report.js")
    found = cards(document, _MOST_FINDINGS)
    costs = accumulate(_cost(card.finding) for card in found)
    full = max(bisect_right(list(costs), _ROOM_FOR_CARDS), 1)
    maps, further_maps = sections(document, found)
    page = (
        environment()
        .get_template("report.html")
        .render(
            document=document,
            kernel=document.kernel,
            origin=document.provenance,
            policy=policy(style, script),
            style=style,
            script=script,
            overview=overview(document),
            cards=found[:full],
            further=found[full:],
            uncounted=len(document.findings) - len(found),
            maps=maps,
            map_of={card.anchor: section.anchor for section in maps for card in section.cards},
            further_maps=further_maps,
            processes=processes(document, found),
            counters=COUNTERS,
            picture=None if document.acquired is None else reading_picture(document.acquired),
            not_assessed=document.not_assessed[:_MOST_NOT_ASSESSED],
            not_shown=len(document.not_assessed) - _MOST_NOT_ASSESSED,
            most_evidence=_MOST_EVIDENCE,
            severities=SEVERITIES,
            rules=sorted({card.finding.rule for card in found}),
            pids=sorted({(card.finding.pid, card.finding.comm) for card in found}),
            legend=legend,
            road_title=TITLE,
            road_rows=road_rows,
            crash=document.crash,
            scan=document.scan,
            most_matches=_MOST_MATCHES,
            death_rows=death_rows,
            told_first=told_first,
            more_of_it=True,
        )
    )
    return page.encode()


def _cost(finding: Finding) -> int:
    """About how many bytes the card of a finding takes."""
    said = sum(250 + min(len(item.what), _MOST_OF_A_SENTENCE) for item in finding.evidence[:_MOST_EVIDENCE])
    typed = sum(len(line) for hand in finding.by_hand for line in hand.lines)
    return 4000 + said + typed + 1000 * len(finding.dumps)


@cache
def environment() -> jinja2.Environment:
    """The templates of this package, with all that goes into them made inert."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("vmaforensics.report.formats.html", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_inert,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    made.filters.update(
        name=lambda text: short(text, _MOST_CHARACTERS),
        sentence=lambda text: short(text, _MOST_OF_A_SENTENCE),
        grouped=lambda number: f"{number:,}",
        counted=counted,
        bare=lambda text: text.removeprefix("0x"),
    )
    made.globals["extent"] = extent
    return made


def _inert(value: object) -> object:
    """Every value on its way into the page, before it is escaped. None is a mistake of a template."""
    if value is None:
        raise TypeError("a template shows a value that is not there")
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def asset(name: str) -> Markup:
    """A file of this package that goes into the page as it is."""
    loader = environment().loader
    assert loader is not None
    return Markup(loader.get_source(environment(), name)[0])


def policy(style: str, script: str | None = None) -> str:
    """The content security policy: nothing but this style and this script, or no script at all."""
    hashes = [
        "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
        for text in (style, script)
        if text is not None
    ]
    scripts = f"script-src {hashes[1]}; " if script is not None else ""
    return f"default-src 'none'; style-src {hashes[0]}; {scripts}base-uri 'none'; form-action 'none'"
