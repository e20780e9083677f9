"""What the short and the full text of a report share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.report.document.document import Document
    from vmaforensics.report.document.findings import Finding
    from vmaforensics.report.formats.terminal import Page


def head(finding: Finding) -> Iterator[tuple[str, str]]:
    """The line that says what, who, where and how sure."""
    where = "" if finding.start is None else f"  {finding.start}-{(finding.end or '0x?')[2:]}"
    yield f"{finding.severity.upper():8}", finding.severity
    yield f"  {finding.rule}", "mark"
    yield f"  {finding.process}{where}  confidence {finding.confidence}", ""


def not_assessed(page: Page, document: Document, *, most: int | None = None) -> None:
    """What bounds the verdict; at most ``most`` items of it."""
    page.heading("Not assessed")
    if not document.not_assessed:
        page.line("Nothing: every record of these views could be read.")
    for item in document.not_assessed[:most]:
        named = f" (pid {item.pid})" if item.pid is not None else ""
        page.wrapped("  - ", f"{item.what}{named}: {item.why}")
    rest = document.not_assessed[most:] if most is not None else []
    if rest:
        page.line(f"  and {len(rest)} more; -v lists them")
    page.gap()
