"""The report for a ticket or a write-up: GitHub-flavoured Markdown that is plain text wherever it came from the image.

Whatever may hold text of the image stands in a code span or a fenced block, in which neither markup nor HTML,
links, @mentions, #references, emoji or formulas are read; our own prose is put in a code span too if it holds
anything but letters and harmless punctuation.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vmaforensics.crash.trail.text import word_line
from vmaforensics.report.formats.crash_text import death_rows, told_first
from vmaforensics.report.formats.road_text import TITLE, road_rows
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vmaforensics.report.document.document import Document
    from vmaforensics.report.document.findings import Finding, Hexdump

_SERIOUS = ("critical", "high", "medium")
_MOST = 100  # rows of a table
_FULL = 10  # findings shown in full; a comment on GitHub holds 65,536 characters
_LONGEST = 300  # characters of one piece of text
# Prose without markup but at its beginning, and without a word that becomes a link.
_PLAIN = re.compile(r"[A-Za-z0-9 .,;:()'/+=%?…–-]*")
_LINKED = re.compile(r"://|www\.|:[a-z0-9_+-]+:|\bGH-\d", re.IGNORECASE)
_BEGINS = re.compile(r"^(\d*)([.)+=-])")  # what begins a list, or underlines a heading
_TOOLS = {"drgn": "python", "crash": "text", "volshell": "python"}


def render_markdown(document: Document) -> bytes:
    """Verdict, findings (the first serious ones in full), what was not assessed, provenance."""
    return ("\n".join(_lines(document)).rstrip("\n") + "\n").encode()


def _lines(document: Document) -> Iterator[str]:
    """The lines of the report, without line ends."""
    kernel = document.kernel
    yield from ("# vmaforensics report", "", f"**Verdict:** {code(document.verdict)}", "")
    machine = [("kernel", kernel.release), ("host", kernel.hostname), ("image taken", kernel.clock or "")]
    machine += [("acquired", document.acquired.text)] if document.acquired is not None else []
    yield from (f"- {name}: {code(value)}" for name, value in machine if value)
    yield from _crash(document)
    yield from ("", "## Findings", "")
    if not document.findings:
        yield from ("None.", "")
    else:
        yield from _findings(document.findings)
    for serious in [finding for finding in document.findings if finding.severity in _SERIOUS][:_FULL]:
        yield from _finding(serious)
    if document.road is not None:
        yield from (f"## {TITLE}", "")
        yield from (f"- {name}: {code(text)}" for name, text in road_rows(document.road))
        yield ""
    yield from _matches(document)
    yield from ("## Not assessed", "")
    if not document.not_assessed:
        yield from ("Nothing: every record of these views could be read.", "")
    else:
        missing = document.not_assessed
        rows = [
            [code(item.what), "" if item.pid is None else str(item.pid), code(item.why)] for item in missing[:_MOST]
        ]
        yield from _table(("what", "pid", "why"), rows, len(missing))
    yield from _provenance(document)


def _matches(document: Document) -> Iterator[str]:
    """What YARA rules matched."""
    if (scan := document.scan) is None:
        return
    yield from ("## Rules", "")
    if not scan.findings:
        yield from ("No rule matched.", "")
        return
    rows = []
    for found in scan.findings[:_MOST]:
        pids = sorted({owner.pid for owner in found.owners})
        what = "; ".join(f"{match.pattern} at {match.physical}" for match in found.matches[:4])
        rows.append([code(found.rule), code(found.place), code(" ".join(map(str, pids[:8]))), code(what)])
    yield from _table(("rule", "where", "pids", "what"), rows, len(scan.findings) + scan.more_findings)


def _crash(document: Document) -> Iterator[str]:
    """How the kernel ended, and the words that its complaints lead to."""
    if (crash := document.crash) is None:
        return
    yield from ("", "## Crash" if crash.death is not None else "## Complaints of the kernel", "")
    if crash.death is not None:
        yield from (f"- {name}: {code(text)}" for name, text in death_rows(crash.death))
    for complaint in told_first(crash)[:_FULL]:
        yield f"- {code(complaint.time)}: {code(complaint.text)}"
        yield from (f"  - broken: {code(word_line(word))}" for word in complaint.words)
        yield from (f"  - findings about it: {code(rule)}" for rule in complaint.findings)
    yield from ("", f"More of it: {code(f'vmaforensics crash {document.provenance.file.path}')}")


def _findings(findings: Sequence[Finding]) -> Iterator[str]:
    rows = [
        [
            prose(finding.severity),
            code(finding.rule),
            _who(finding),
            _where(finding),
            code(finding.title),
            code(finding.id),
        ]
        for finding in findings[:_MOST]
    ]
    yield from _table(("severity", "rule", "process", "range", "what", "id"), rows, len(findings))


def _finding(finding: Finding) -> Iterator[str]:
    """One finding in full, down to its hexdumps and the lines to check it by hand."""
    yield from (f"### {prose(finding.severity.upper())}: {prose(finding.rule_title)}", "")
    where = "" if finding.start is None else f", {_where(finding)}"
    yield from (f"{_who(finding)}{where}, rule {code(finding.rule)}, confidence {prose(finding.confidence)}", "")
    yield from (code(finding.title), "", f"**Why it matters:** {prose(finding.why)}", "")
    rows = [
        [prose(item.view), code(item.address or ""), code(item.what), code(item.found), code(item.expected)]
        for item in finding.evidence[:_MOST]
    ]
    yield from _table(("view", "address", "what", "found", "expected"), rows, len(finding.evidence))
    yield from ("**Innocent causes considered:**", "")
    yield from (f"- {prose(cause)}" for cause in finding.benign_causes)
    yield from (f"- the mmap lock was {code(finding.lock)}", "")
    if finding.attack:
        names = ", ".join(f"{code(item.id)} {prose(item.name)}" for item in finding.attack)
        yield from (f"**Consistent with (ATT\\&CK):** {names}", "")
    for dump in finding.dumps:
        if dump.data is not None:
            yield from (f"{prose(dump.what)}, {code(dump.address)}:", "", *fenced(_hex_lines(dump)), "")
    for check in finding.by_hand:
        yield from (f"By hand, in {prose(check.tool)}:", "", *fenced(check.lines, _TOOLS.get(check.tool, "text")), "")


def _who(finding: Finding) -> str:
    return f"pid {finding.pid} {code(finding.comm)}" if finding.pid or finding.comm else "no process"


def _where(finding: Finding) -> str:
    return "" if finding.start is None else code(f"{finding.start}-{finding.end or '?'}")


def _provenance(document: Document) -> Iterator[str]:
    origin, kernel = document.provenance, document.kernel
    pages = origin.coverage
    rows = (
        ("file", origin.file.path),
        ("size", f"{origin.file.size} bytes, {origin.file.format}"),
        ("sha256", origin.file.sha256 or "not computed"),
        ("coverage", f"{pages.present} pages present, {pages.zero} zero, {pages.absent} not in the dump"),
        ("banner", kernel.banner),
        ("build id", kernel.build_id or "unknown"),
        ("booted", kernel.booted or "unknown"),
        ("symbols", origin.symbols or "none"),
        ("types", origin.types),
        ("tool", f"{origin.tool} {origin.version}"),
    )
    yield from ("## Provenance", "")
    yield from _table(("", ""), [[prose(name), code(value)] for name, value in rows], len(rows))


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], total: int) -> Iterator[str]:
    yield from (_row(titles), _row(["---"] * len(titles)))
    # The bar ends a cell even within a code span, and whether a backslash keeps it from that depends on the reader.
    yield from (_row([cell.replace("|", "\\x7c") for cell in row]) for row in rows)
    if total > len(rows):
        yield from ("", f"and {total - len(rows)} more, which the JSON report lists")
    yield ""


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def code(text: str) -> str:
    """``text`` as a code span, empty if it is: one line, cut if very long.

    >>> code("a`b"), code("`"), code("")
    ('``a`b``', '`` ` ``', '')
    """
    shown = _short(printable(text))
    if not shown.strip():
        return "" if not shown else f"`{shown}`"
    ticks = "`" * (_longest_run(shown) + 1)
    # One blank on either side is taken off again, where there is one on both.
    edge = " " if shown[0] in "` " or shown[-1] in "` " else ""
    return f"{ticks}{edge}{shown}{edge}{ticks}"


def prose(text: str) -> str:
    """``text`` as prose, where it has nothing but letters and harmless punctuation; else as a code span."""
    shown = printable(text).strip()
    if not _PLAIN.fullmatch(shown) or _LINKED.search(shown):
        return code(text)
    return _BEGINS.sub(r"\1\\\2", _short(shown))


def fenced(lines: Iterable[str], language: str = "text") -> list[str]:
    """A fenced block: nothing in ``lines`` ends it."""
    shown = [printable(line) for line in lines]
    fence = "`" * max(3, 1 + max(map(_longest_run, shown), default=0))
    return [f"{fence}{language}", *shown, fence]


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text)} characters)"


def _hex_lines(dump: Hexdump) -> list[str]:
    """16 bytes a line, each with the address of its first."""
    start, digits = int(dump.address, 16), dump.data or ""
    return [
        f"{start + at // 2:016x}  {' '.join(re.findall('..?', digits[at : at + 32]))}"
        for at in range(0, len(digits), 32)
    ]
