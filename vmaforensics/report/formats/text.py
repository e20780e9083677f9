"""The report as text, for people: the verdict first, then what to look at; more of it when asked for."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from vmaforensics.report.document.verdict import SERIOUS
from vmaforensics.report.formats.crash_text import crash_section
from vmaforensics.report.formats.road_text import road_section
from vmaforensics.report.formats.scan_text import scan_section
from vmaforensics.report.formats.terminal import Page
from vmaforensics.report.formats.text_full import full
from vmaforensics.report.formats.text_parts import head, not_assessed
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from vmaforensics.report.document.document import Document
    from vmaforensics.report.document.findings import Finding

_EVIDENCE = 3  # pieces shown of a finding unless more detail is asked for
_PLACES = 6  # places named of one rule that has minor findings only
_LIMITS = 8  # things not assessed that are named
_NO_PROCESS = 1 << 63  # from here on no address is of a process


def render_text(
    document: Document, *, detail: int = 0, color: bool = False, width: int | None = None, all_regions: bool = False
) -> str:
    """The whole report, or as much of it as ``detail`` says.

    -1: the verdict and a line per finding. 0: serious findings with their three strongest pieces of evidence
    and what to do next, minor ones in short, what was not assessed. 1: all evidence, every process, all
    provenance. 2: also the records side by side, bytes, and lines to check each finding by hand.

    ``color`` adds ANSI sequences for colour; ``width`` is the terminal's, None for a pipe. ``all_regions``
    shows every region of every process, and not only those around a finding, with all else that detail 1 shows.
    """
    page = Page(width=width, color=color)
    _verdict(page, document, brief=detail < 0)
    if detail < 0:
        for finding in document.findings:
            page.line(*head(finding))
        return page.text()
    crash_section(page, document, everything=detail > 0)
    scan_section(page, document, everything=detail > 0)
    if detail > 0 or all_regions:
        full(page, document, detail=detail, all_regions=all_regions)
        return page.text()
    _findings(page, document)
    road_section(page, document)
    not_assessed(page, document, most=_LIMITS)
    _origin(page, document)
    return page.text()


def next_step(document: Document, finding: Finding) -> str:
    """The command that shows what a finding is about."""
    image = shlex.quote(document.provenance.file.path)
    owner = f"--pid {finding.pid}" if finding.pid else f"--mm {finding.mm}"
    if not finding.pid and finding.mm in ("", "0x0"):
        return f"vmaforensics explain {finding.rule}"
    at = f" --at {finding.start}" if finding.start is not None and _of_a_process(finding.start) else ""
    return f"vmaforensics views {image} {owner}{at}"


def _of_a_process(address: str) -> bool:
    """Can an address be one that a process has? What is no number, as a saved document may hold, is told as it is."""
    try:
        return int(address, 16) < _NO_PROCESS
    except ValueError:
        return True


def _verdict(page: Page, document: Document, *, brief: bool) -> None:
    worst = next((finding.severity for finding in document.findings if finding.severity in SERIOUS), None)
    look = worst or ("medium" if document.not_assessed else "good")
    if brief:
        page.line(("VERDICT   ", "label"), (document.verdict, look))
        return
    page.wrapped("VERDICT   ", document.verdict, style="label", look=look)
    kernel, origin = document.kernel, document.provenance
    pages = origin.coverage
    page.wrapped(
        "KERNEL    ",
        f"{kernel.release}, {kernel.architecture}, {kernel.page_table_levels}-level page tables",
        style="label",
    )
    held = f"{pages.present + pages.zero} of {pages.ram} pages of RAM are in it"
    page.wrapped("IMAGE     ", f"{origin.file.path} ({origin.file.format}); {held}", style="label")
    if document.acquired is not None:
        page.wrapped("ACQUIRED  ", document.acquired.text, style="label")
    page.wrapped("PROCESSES ", _processes(document), style="label")
    page.wrapped("VIEWS     ", ", ".join(kernel.views), style="label")
    page.gap()


def _processes(document: Document) -> str:
    user = [process for process in document.processes if process.kind == "user"]
    threads = sum(len(process.threads) + 1 for process in user)
    kernel = sum(process.kind == "kernel" for process in document.processes)
    vmas = sum(len(process.regions) for process in user)
    shown = f"{len(user)} with memory, {counted(threads, 'thread')}, {counted(vmas, 'VMA')}"
    torn = sum(any(not view.complete for view in process.views) for process in user)
    busy = sum(process.lock not in ("free", None) for process in user)
    notes = [f"{counted(kernel, 'kernel thread')}"] if kernel else []
    notes += [f"the map of {torn} could not be read whole"] if torn else []
    notes += [f"the mmap lock of {busy} was not free"] if busy else []
    return "; ".join([shown, *notes])


def _findings(page: Page, document: Document) -> None:
    """Serious findings one by one, then a line for each rule among the others."""
    if not document.findings:
        return
    page.heading("Findings")
    for finding in document.findings:
        if finding.severity in SERIOUS:
            _serious(page, document, finding)
            page.gap()
    minor: dict[tuple[str, str, str, str], list[Finding]] = {}
    for finding in document.findings:
        if finding.severity not in SERIOUS:
            minor.setdefault((finding.severity, finding.rule, finding.confidence, finding.rule_title), []).append(
                finding
            )
    for (severity, rule, confidence, title), found in minor.items():
        page.line((f"{severity.upper():8}", severity), (f"  {rule}", "mark"), f"  confidence {confidence}  {title}")
        places = [_place(finding) for finding in found[:_PLACES]]
        places += [f"and {len(found) - _PLACES} more"] if len(found) > _PLACES else []
        page.wrapped(" " * 10, ", ".join(places))
    page.gap()


def _place(finding: Finding) -> str:
    """Where a finding is, or, of the kernel's own code, what it is."""
    if not finding.pid and not finding.comm and finding.mm == "0x0":
        return finding.title
    return f"{finding.process}{'' if finding.start is None else f' at {finding.start}'}"


def _serious(page: Page, document: Document, finding: Finding) -> None:
    page.line(*head(finding))
    page.wrapped("  ", f"{finding.rule_title}: {finding.title}.")
    shown = finding.strongest(_EVIDENCE)
    label = max((len(item.view) for item in shown), default=0)
    for item in shown:
        stated = item.found in item.what and item.expected in item.what
        values = "" if stated or not item.found or not item.expected else f" [{item.found} instead of {item.expected}]"
        page.wrapped(f"    {item.view:{label}}  ", item.what + values, style="label")
    if len(finding.evidence) > len(shown):
        page.line(f"    and {counted(len(finding.evidence) - len(shown), 'more piece')} of evidence; -v shows all")
    page.line(("  next: ", "label"), (next_step(document, finding), "command"))


def _origin(page: Page, document: Document) -> None:
    origin = document.provenance
    page.heading("Provenance")
    sha256 = f"sha256 {origin.file.sha256}" if origin.file.sha256 else "sha256 not computed (--sha256 does)"
    page.wrapped("", f"{origin.file.size} bytes, {sha256}")
    page.wrapped("", f"symbols: {origin.symbols or 'none'}; types: {origin.types}")
    page.wrapped("", f"{origin.tool} {origin.version}; -v shows all evidence, -vv all records side by side")
