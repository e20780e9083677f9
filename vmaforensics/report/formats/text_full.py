"""The report as text in full: every piece of evidence, every process, where each fact comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.report.formats.road_text import road_section
from vmaforensics.report.formats.text_parts import head, not_assessed
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vmaforensics.compare.records_document import Cell
    from vmaforensics.report.document.document import Document
    from vmaforensics.report.document.findings import Finding, Hexdump
    from vmaforensics.report.document.parts import MemoryMap, Process, Region
    from vmaforensics.report.formats.terminal import Page, Piece

_AROUND = 3  # regions shown before and after a finding
_EVIDENCE = 60  # pieces shown of a finding
_DUMPED = 16  # bytes a line of a hexdump


def full(page: Page, document: Document, *, detail: int, all_regions: bool) -> None:
    """Everything below the verdict. From ``detail`` 2 on also the records side by side, bytes and hand checks."""
    if document.findings:
        page.heading("Findings")
    for finding in document.findings:
        _finding(page, finding, deep=detail > 1)
        page.gap()
    if detail > 1:
        for found in document.maps:
            _side_by_side(page, found)
        if document.maps_left_out:
            page.line(f"{counted(document.maps_left_out, 'further address space')} with findings: see `views --pid N`")
            page.gap()
    shown = {found.mm for found in document.maps} if detail > 1 else set()
    _processes(page, document, all_regions, shown)
    road_section(page, document)
    not_assessed(page, document)
    _provenance(page, document, deep=detail > 1)


def _finding(page: Page, finding: Finding, *, deep: bool) -> None:
    """One finding with all of its evidence; ``deep`` adds hexdumps and the lines to check it by hand."""
    page.line(*head(finding))
    page.wrapped("  ", f"{finding.rule_title}: {finding.title}.")
    page.line(("  seen:", "label"))
    for item in finding.evidence[:_EVIDENCE]:
        values = f" [{item.found} instead of {item.expected}]" if item.found and item.expected else ""
        at = f" ({item.view} at {item.address})" if item.address else ""
        page.wrapped("    - ", item.what + values + at)
    if (rest := len(finding.evidence) - _EVIDENCE) > 0:
        page.line(f"    and {counted(rest, 'more piece')} of evidence; the JSON report lists them")
    page.wrapped("  why it matters: ", finding.why, style="label")
    causes = "; ".join(finding.benign_causes)
    page.wrapped("  innocent causes: ", f"{causes}. The mmap lock was {finding.lock}.", style="label")
    if finding.attack:
        named = ", ".join(f"{item.id} {item.name}" for item in finding.attack)
        page.wrapped("  consistent with: ", named, style="label")
    page.line(("  finding id: ", "label"), finding.id)
    if not deep:
        return
    if finding.vma is not None:
        flags = f", {' '.join(finding.flags)}" if finding.flags else ""
        page.wrapped("  vm_area_struct: ", f"{finding.vma}{flags}", style="label")
    for dump in finding.dumps:
        _hexdump(page, dump)
    for check in finding.by_hand:
        page.line((f"  by hand, in {check.tool}:", "label"))
        for line in check.lines:
            page.line("    ", (line, "command"))


def _hexdump(page: Page, dump: Hexdump) -> None:
    page.line((f"  {dump.what}", "label"), f" at {dump.address}" + (": not in the dump" if dump.data is None else ""))
    try:
        data = bytes.fromhex(dump.data or "")
    except ValueError:
        data = b""  # a saved document may say anything
    first = int(dump.address, 16)
    for at in range(0, len(data), _DUMPED):
        part = data[at : at + _DUMPED]
        shown = "".join(chr(octet) if 0x20 <= octet < 0x7F else "." for octet in part)
        page.line(f"    {first + at:016x}  {part.hex(' '):{3 * _DUMPED - 1}}  {shown}")


def _side_by_side(page: Page, found: MemoryMap) -> None:
    """Every region of an address space in every record; ``views`` does so too, for any process."""
    page.line((f"pid {found.pid} ({found.comm}), mm {found.mm}: every record side by side", "heading"))
    rows: list[list[Piece]] = [["", "range", "perms", "vm_area_struct", *found.views, "what"]]
    for row in found.rows:
        cells = [row.cells.get(view) for view in found.views]
        wrong = any(cell is not None and cell.state == "missing" for cell in cells)
        vma = "no VMA" if row.vma is None else row.vma[2:]
        span = f"{row.start[2:]}-{row.end[2:]}"
        rows.append([">" if wrong else "", span, row.perms, vma, *map(_cell, cells), row.name])
    page.table(rows, whole=True)
    if found.rows_left_out:
        page.line(f"{counted(found.rows_left_out, 'row')} far from the findings are not in the report")
    if found.nodes:
        page.line((f"{found.index} around the findings", "heading"))
        page.table(
            [["node", "parent", "kind", "range", "entries", "wrong"]]
            + [
                [
                    node.address,
                    node.parent or "root",
                    node.kind,
                    f"{node.start}-{node.end}",
                    str(node.entries),
                    node.wrong,
                ]
                for node in found.nodes
            ],
            right={4},
            whole=True,
        )
    page.gap()


def _cell(cell: Cell | None) -> Piece:
    if cell is None or cell.state == "none":
        return "-"
    if cell.state == "held":
        return f"{(cell.address or '')[2:]} {cell.note}".strip() or "yes"
    word = {"missing": "no", "unread": "?"}[cell.state]
    return (f"{word} {cell.note}".strip(), "high" if cell.state == "missing" else "")


def _processes(page: Page, document: Document, all_regions: bool, shown: set[str]) -> None:
    """Every process in a line, and the regions of those that matter unless they have been ``shown``."""
    marked: dict[str, list[Finding]] = {}
    for finding in document.findings:
        marked.setdefault(finding.mm, []).append(finding)
    user = [process for process in document.processes if process.kind == "user"]
    for process in user:
        about = marked.get(process.mm or "", [])
        if process.regions and (all_regions or (about and process.mm not in shown)):
            _regions(page, process, about, all_regions)
    page.heading("Processes")
    views = list(dict.fromkeys(view.view for process in user for view in process.views))
    rows: list[list[Piece]] = [["pid", "comm", "threads", *views, "map_count", "total_vm", "lock", "findings"]]
    for owner in user:
        held = {view.view: f"{view.regions}{'' if view.complete else '?'}" for view in owner.views}
        stored = {counter.name: counter.stored for counter in owner.counters}
        about = marked.get(owner.mm or "", [])
        rules = ", ".join(sorted({item.rule for item in about}))
        rows.append(
            [
                str(owner.pid),
                owner.comm,
                str(len(owner.threads) + 1),
                *(held.get(view, "-") for view in views),
                str(stored.get("map_count", "-")),
                str(stored.get("total_vm", "-")),
                owner.lock or "-",
                (rules, about[0].severity)
                if about
                else (f"memory of {owner.shares_with}" if owner.shares_with is not None else ""),
            ]
        )
    page.table(rows, right={0, *range(2, 5 + len(views))})
    page.gap()


def _regions(page: Page, process: Process, findings: list[Finding], everything: bool) -> None:
    """One row per region, one column per index; holes that a finding names are rows too."""
    rows: list[tuple[int, Region | None, Finding | None]] = [
        (int(region.start, 16), region, None) for region in process.regions
    ]
    starts = {region.start for region in process.regions}
    rows += [
        (int(item.start, 16), None, item) for item in findings if item.start is not None and item.start not in starts
    ]
    rows.sort(key=lambda row: (row[0], row[1] is None))
    ranges = [(int(item.start, 16), int(item.end or item.start, 16)) for item in findings if item.start is not None]
    near: set[int] = set()
    for at, (start, _, _) in enumerate(rows):
        if everything or any(low <= start < max(high, low + 1) for low, high in ranges):
            near.update(range(max(at - _AROUND, 0), min(at + _AROUND + 1, len(rows))))
    if not near:
        return
    page.line((f"pid {process.pid} ({process.comm}), mm {process.mm}", "heading"))
    views = [view.view for view in process.views]
    table: list[Sequence[Piece]] = [["", "range", "perms", *views, "what"]]
    last = -1
    for at in sorted(near):
        if at != last + 1:
            table.append(["", "…"])
        last = at
        _, region, finding = rows[at]
        if region is None:
            assert finding is not None
            span = f"{(finding.start or '')[2:]}-{(finding.end or '')[2:]}"
            what = (f"{finding.rule}: nothing is shown here", finding.severity)
            table.append([(">", finding.severity), span, "", *([("no", finding.severity)] * len(views)), what])
            continue
        seen = (region.seen.list, region.seen.rbtree, region.seen.maple)
        cells = ["no" if cell is None else "yes" for cell in seen if cell is None or isinstance(cell, str)]
        hit = any(low <= int(region.start, 16) < high for low, high in ranges) and "no" in cells
        span = f"{region.start[2:]}-{region.end[2:]}"
        table.append([">" if hit else "", span, region.perms, *cells, region.name or region.kind])
    page.table(table)
    page.gap()


def _provenance(page: Page, document: Document, *, deep: bool) -> None:
    """Where the facts come from: the file, the kernel, the libraries; ``deep`` adds clocks, tasks and RAM."""
    origin, kernel = document.provenance, document.kernel
    pages = origin.coverage
    page.heading("Provenance")
    rows: Iterable[tuple[str, str | None]] = (
        ("file", origin.file.path),
        ("size", f"{origin.file.size} bytes, format {origin.file.format}"),
        ("sha256", origin.file.sha256 or "not computed (ask with --sha256)"),
        ("coverage", f"{pages.present} pages present, {pages.zero} zero, {pages.absent} not in the dump"),
        *origin.file.details.items(),
        ("banner", kernel.banner),
        ("build id", kernel.build_id),
        ("VMCOREINFO", origin.vmcoreinfo or "not found"),
        ("symbols", origin.symbols or "none"),
        ("types", origin.types),
        ("translation", origin.translation),
        ("tool", f"{origin.tool} {origin.version}, Python {origin.python}"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in origin.dependencies.items())),
    )
    for label, value in (*rows, *(_deep_provenance(document) if deep else ())):
        page.wrapped(f"  {label:16}  ", value or "unknown", style="label")


def _deep_provenance(document: Document) -> Iterable[tuple[str, str | None]]:
    kernel, image = document.kernel, document.image
    isolation = {True: "on", False: "off", None: "unknown"}[kernel.page_table_isolation]
    yield "KASLR offset", f"{kernel.kaslr_offset or 'unknown'}, phys_base {kernel.phys_base:#x}"
    yield "isolation", f"page-table isolation {isolation}"
    yield "hostname", kernel.hostname
    yield "booted", kernel.booted
    yield "clock", kernel.clock
    if document.acquired is not None:
        yield "acquired", document.acquired.text
    yield "crashed", kernel.crashed or "no crash recorded"
    counts = counted(kernel.processes, "process", "es"), counted(kernel.kernel_threads, "kernel thread")
    yield "tasks", f"{', '.join(counts)}, {counted(kernel.address_spaces, 'address space')}"
    shown = ", ".join(f"{start}-{end[2:]}" for start, end in image.ranges[:8])
    yield "RAM", f"{image.ram} bytes in {counted(len(image.ranges), 'range')}: {shown}"
    yield "schema", f"{document.schema.name} {document.schema.version}"
