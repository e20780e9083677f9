"""What a notebook shows of a document or a finding: a short summary, inert whatever the image holds."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from vmaforensics.report.formats.text import strongest, verdict, who
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmaforensics.report.document.document import Document, Finding

_MOST = 20  # findings listed


def document_html(document: Document) -> str:
    """The verdict, the kernel, the findings in a table; not the report, which ``render`` makes."""
    kernel, origin = document.kernel, document.provenance
    rows = "".join(_row(one) for one in document.findings[:_MOST])
    more = len(document.findings) - _MOST
    table = (
        f"<table><thead>{_cells('th', ('severity', 'rule', 'process', 'range', 'confidence', 'what'))}</thead>"
        f"<tbody>{rows}</tbody></table>"
        if rows
        else ""
    )
    return (
        f"<div><p><strong>{_safe(verdict(document))}</strong></p>"
        f"<p>{_safe(kernel.release)}, {_safe(kernel.architecture)}; {_safe(origin.file.path)}</p>{table}"
        + (f"<p>and {more} more findings</p>" if more > 0 else "")
        + "</div>"
    )


def finding_html(one: Finding) -> str:
    """What is wrong, where, and the strongest evidence."""
    where = "" if one.start is None else f", {one.start}–{one.end}"
    seen = "".join(f"<li>{_safe(item.what)} <em>({_safe(item.view)})</em></li>" for item in strongest(one, 5))
    return (
        f"<div><p><strong>{_safe(one.severity.upper())} {_safe(one.rule)}</strong>: {_safe(one.title)}<br>"
        f"{_safe(who(one) + where)}, confidence {_safe(one.confidence)}</p><ul>{seen}</ul></div>"
    )


def _row(one: Finding) -> str:
    where = "" if one.start is None else f"{one.start}–{one.end}"
    return _cells("td", (one.severity, one.rule, who(one), where, one.confidence, one.title))


def _cells(tag: str, texts: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{_safe(text)}</{tag}>" for text in texts) + "</tr>"


def _safe(text: str) -> str:
    return html.escape(printable(text))
