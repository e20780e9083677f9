"""The report as plain text, for people: the verdict first, at most 100 columns where names allow it."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmaforensics.report.document import Document, Finding, Process, Region

_WIDTH = 100
_AROUND = 3  # regions shown before and after a finding
_SEVERITIES = ("critical", "high", "medium", "low", "info")


def render_text(document: Document, *, all_regions: bool = False) -> str:
    """The whole report. ``all_regions`` shows every region of every process, side by side over the views;
    otherwise only those around a finding are shown."""
    lines = [*_verdict(document), "", *_findings(document), *_processes(document, all_regions)]
    lines += [*_not_assessed(document), *_provenance(document)]
    return "\n".join(lines) + "\n"


def verdict(document: Document) -> str:
    """The outcome in one sentence."""
    counts = {name: sum(one.severity == name for one in document.findings) for name in _SEVERITIES}
    serious = [one for one in document.findings if one.severity in _SEVERITIES[:3]]
    user = sum(one.kind == "user" for one in document.processes)
    bounds = f"; {_plural(len(document.not_assessed), 'thing')} could not be assessed" if document.not_assessed else ""
    if not serious:
        minor = sum(counts.values())
        rest = f" ({_plural(minor, 'minor finding')})" if minor else ""
        agree = "agrees" if bounds or user == 1 else "agree"
        if bounds:
            return f"What could be read of {_plural(user, 'process', 'es')} {agree}{rest}{bounds}."
        return f"The records of {_plural(user, 'process', 'es')} {agree}{rest}."
    told = ", ".join(f"{counts[name]} {name}" for name in _SEVERITIES if counts[name])
    who = sorted({(one.pid, one.comm) for one in serious})
    names = ", ".join(f"pid {pid} ({comm})" for pid, comm in who[:4]) + (", …" if len(who) > 4 else "")
    number = sum(counts.values())
    return f"{told} finding{'s' if number != 1 else ''} among {_plural(user, 'process', 'es')}: {names}{bounds}."


def _plural(count: int, word: str, ending: str = "s") -> str:
    return f"{count} {word}{'' if count == 1 else ending}"


def _verdict(document: Document) -> Iterator[str]:
    kernel = document.kernel
    yield from _wrapped("VERDICT   ", verdict(document))
    yield f"KERNEL    {kernel.release}, {kernel.architecture}, {kernel.page_table_levels}-level page tables"
    yield from _wrapped("VIEWS     ", ", ".join(kernel.views))


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=label,
        subsequent_indent=" " * len(label),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _heading(text: str) -> list[str]:
    return [text, "-" * len(text)]


def _findings(document: Document) -> Iterator[str]:
    if not document.findings:
        return
    yield from _heading("Findings")
    for one in document.findings:
        yield from _finding(one)
        yield ""


def _finding(one: Finding) -> Iterator[str]:
    where = "" if one.start is None else f"  {one.start}-{(one.end or '0x?')[2:]}"
    who = f"pid {one.pid} ({one.comm})" if one.pid or one.comm else "no process named"
    yield f"{one.severity.upper():8}  {one.rule}  {who}{where}  confidence {one.confidence}"
    yield from _wrapped("  ", f"{one.rule_title}: {one.title}.")
    yield "  seen:"
    for item in one.evidence:
        values = f" [{item.found} instead of {item.expected}]" if item.found and item.expected else ""
        at = f" ({item.view} at {item.address})" if item.address else ""
        yield from _wrapped("    - ", item.what + values + at)
    yield from _wrapped("  why it matters: ", one.why)
    yield from _wrapped("  innocent causes: ", "; ".join(one.benign_causes) + f". The mmap lock was {one.lock}.")
    if one.attack:
        yield from _wrapped("  consistent with: ", ", ".join(f"{item.id} {item.name}" for item in one.attack))


def _processes(document: Document, all_regions: bool) -> Iterator[str]:
    marked: dict[str, list[Finding]] = {}
    for finding in document.findings:
        marked.setdefault(finding.mm, []).append(finding)
    user = [one for one in document.processes if one.kind == "user"]
    for one in user:
        mine = marked.get(one.mm or "", [])
        if one.regions and (all_regions or mine):
            yield from _regions(one, mine, all_regions)
    yield from _heading("Processes")
    views = list(dict.fromkeys(view.view for one in user for view in one.views))
    titles = ["pid", "comm", "threads", *views, "map_count", "total_vm", "lock", "findings"]
    rows = [titles]
    for one in user:
        held = {view.view: f"{view.regions}{'' if view.complete else '?'}" for view in one.views}
        stored = {counter.name: counter.stored for counter in one.counters}
        rows.append(
            [
                str(one.pid),
                one.comm,
                str(len(one.threads) + 1),
                *(held.get(view, "-") for view in views),
                str(stored.get("map_count", "-")),
                str(stored.get("total_vm", "-")),
                one.lock or "-",
                ", ".join(sorted({item.rule for item in marked.get(one.mm or "", [])}))
                or (f"memory of {one.shares_with}" if one.shares_with is not None else ""),
            ]
        )
    yield from _table(rows, right={0, *range(2, 5 + len(views))})
    yield ""


def _table(rows: list[list[str]], right: set[int]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def _regions(one: Process, findings: list[Finding], everything: bool) -> Iterator[str]:
    """Side by side: one row per region, one column per view; holes that a finding names are rows too."""
    rows: list[tuple[int, Region | None, Finding | None]] = [
        (int(region.start, 16), region, None) for region in one.regions
    ]
    rows += [
        (int(item.start, 16), None, item)
        for item in findings
        if item.start is not None and not any(region.start == item.start for region in one.regions)
    ]
    rows.sort(key=lambda row: (row[0], row[1] is None))
    ranges = [(int(item.start, 16), int(item.end or item.start, 16)) for item in findings if item.start is not None]
    near: set[int] = set()
    for at, (start, _, _) in enumerate(rows):
        if everything or any(low <= start < max(high, low + 1) for low, high in ranges):
            near.update(range(max(at - _AROUND, 0), min(at + _AROUND + 1, len(rows))))
    if not near:
        return
    yield f"pid {one.pid} ({one.comm}), mm {one.mm}"
    views = [view.view for view in one.views]
    table = [["", "range", "perms", *views, "what"]]
    last = -1
    for at in sorted(near):
        if at != last + 1:
            table.append(["", "…", "", *([""] * len(views)), ""])
        last = at
        _, region, finding = rows[at]
        if region is None:
            assert finding is not None
            span = f"{(finding.start or '')[2:]}-{(finding.end or '')[2:]}"
            table.append([">", span, "", *(["no"] * len(views)), f"{finding.rule}: nothing is shown here"])
            continue
        seen = (region.seen.list, region.seen.rbtree, region.seen.maple)
        cells = ["no" if cell is None else "yes" for cell in seen if cell is None or isinstance(cell, str)]
        hit = any(low <= int(region.start, 16) < high for low, high in ranges) and "no" in cells
        span = f"{region.start[2:]}-{region.end[2:]}"
        table.append([">" if hit else "", span, region.perms, *cells, region.name or region.kind])
    yield from _table(table, right=set())
    yield ""


def _not_assessed(document: Document) -> Iterator[str]:
    yield from _heading("Not assessed")
    if not document.not_assessed:
        yield "Nothing: every record of these views could be read."
    for one in document.not_assessed:
        who = f" (pid {one.pid})" if one.pid is not None else ""
        yield from _wrapped("  - ", f"{one.what}{who}: {one.why}")
    yield ""


def _provenance(document: Document) -> Iterator[str]:
    origin = document.provenance
    pages = origin.coverage
    yield from _heading("Provenance")
    rows: Iterable[tuple[str, str | None]] = (
        ("file", origin.file.path),
        ("size", f"{origin.file.size} bytes, format {origin.file.format}"),
        ("sha256", origin.file.sha256 or "not computed (ask with --sha256)"),
        ("coverage", f"{pages.present} pages present, {pages.zero} zero, {pages.absent} not in the dump"),
        *((name, value) for name, value in origin.file.details.items()),
        ("banner", document.kernel.banner),
        ("build id", document.kernel.build_id),
        ("VMCOREINFO", origin.vmcoreinfo or "not found"),
        ("symbols", origin.symbols or "none"),
        ("types", origin.types),
        ("translation", origin.translation),
        ("tool", f"{origin.tool} {origin.version}, Python {origin.python}"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in origin.dependencies.items())),
    )
    for label, value in rows:
        yield from _wrapped(f"  {label:16}  ", value or "unknown")
