"""The section of the report as text on what YARA rules found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.scan.text import finding_lines, summary
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from vmaforensics.report.document.document import Document
    from vmaforensics.report.formats.terminal import Page

_MOST = 16


def scan_section(page: Page, document: Document, *, everything: bool) -> None:
    """Every rule that matched, and whose memory that is; ``everything`` shows all of them."""
    scan = document.scan
    if scan is None:
        return
    page.heading("Rules")
    shown = scan.findings if everything else scan.findings[:_MOST]
    for finding in shown:
        for line in finding_lines(finding):
            page.line(f"  {line.rstrip()}")
    rest = len(scan.findings) + scan.more_findings - len(shown)
    if rest:
        page.line(f"  and {counted(rest, 'more finding')}")
    for line in summary(scan):
        page.line(f"  {line.rstrip()}")
    page.gap()
