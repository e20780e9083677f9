"""The section of the report as text on a kernel that crashed or complained."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from vmaforensics.crash.trail.text import word_line
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vmaforensics.report.document.crash_part import CrashComplaint, CrashDeath, CrashPart
    from vmaforensics.report.document.document import Document
    from vmaforensics.report.formats.terminal import Page

_MOST = 3  # complaints, those that led to the end first
_WORDS = 4


def crash_section(page: Page, document: Document, *, everything: bool) -> None:
    """How it ended, what broke, and which command says more; ``everything`` shows every complaint and its reasons."""
    crash = document.crash
    if crash is None:
        return
    page.heading("Crash" if crash.death is not None else "Complaints of the kernel")
    if crash.death is not None:
        for label, text in death_rows(crash.death):
            page.wrapped(f"  {label:12}", text, style="label")
    shown = crash.complaints if everything else told_first(crash)[:_MOST]
    for complaint in shown:
        _complaint(page, complaint, everything=everything)
    rest = len(crash.complaints) + crash.complaints_left_out - len(shown)
    if rest:
        page.line(f"  and {counted(rest, 'more complaint')}")
    page.line(("  next: ", "label"), (f"vmaforensics crash {shlex.quote(document.provenance.file.path)}", "command"))
    page.gap()


def told_first(crash: CrashPart) -> Sequence[CrashComplaint]:
    """The complaints: what led to the end first, then those that lead to a word, then the others."""
    return sorted(crash.complaints, key=lambda complaint: (not complaint.ended, not complaint.words))


def death_rows(death: CrashDeath) -> Iterator[tuple[str, str]]:
    """What there is to say of the end, labelled."""
    yield "how", f"{death.how} ({death.kind})"
    if death.cause is not None:
        yield "because", death.cause
    where = ["CPU unknown" if death.cpu is None else f"CPU {death.cpu}"]
    where += [] if death.pid is None else [f"pid {death.pid} ({death.comm})"]
    where += [] if death.time is None else [f"{death.time} s after boot"]
    yield "where", ", ".join(where)
    if death.fingerprint is not None:
        yield "fingerprint", f"{death.fingerprint} ({' < '.join([death.kind, *death.functions])})"


def _complaint(page: Page, complaint: CrashComplaint, *, everything: bool) -> None:
    page.wrapped(f"  {complaint.time:>12}  ", complaint.text, look="mark")
    for word in complaint.words[:_WORDS]:
        page.wrapped("    broken: ", word_line(word), style="label")
        for sentence in word.why if everything else ():
            page.wrapped("      - ", sentence)
    if complaint.findings:
        page.wrapped("    findings about it: ", ", ".join(complaint.findings), style="label")
    if everything:
        for note in complaint.notes:
            page.wrapped("    note: ", note, style="label")
        page.wrapped("    means: ", complaint.says, style="label")
        page.wrapped("    look at: ", complaint.look, style="label")
