"""A document made by hand that has everything a report can show, and the same with hostile strings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from vmaforensics.compare.nearby.node import Node
from vmaforensics.compare.records_document import Cell, Row
from vmaforensics.report.document.document import Document
from vmaforensics.report.document.findings import Evidence, Finding, HandCheck, Hexdump, Technique
from vmaforensics.report.document.parts import (
    Counter,
    Coverage,
    FileFacts,
    ImageFacts,
    KernelFacts,
    MemoryMap,
    NotAssessed,
    Process,
    Provenance,
    Schema,
    Thread,
    ViewSummary,
)
from vmaforensics.scan.document import NotScanned, Owner, RuleFile, ScanFinding, ScanMatch, ScannedAmount, ScanPart

if TYPE_CHECKING:
    from collections.abc import Callable

VIEWS = ("maple tree", "page tables", "slab", "i_mmap")

# Each tries to leave the place that text is put in, or to act on whoever shows it.
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "&lt;b&gt;&#60;b&#62;&quot;&amp",
    "</style><style>*{display:none}</style>",
    '<base href="http://evil.test/">',
    "<meta http-equiv=refresh content='0;url=http://evil.test/'>",
    "</title></textarea></svg></table><b>",
    "url(http://evil.test/x) @import 'http://evil.test/y'",
    "]]><!-- --!><b>",
    "{{ 7 * 7 }}{% raw %}{# #}",
    "`${alert(1)}`\\u003cb\\u003e",
    "\u202egnp.exe\u2066x\u2069",
    "\x1b]0;title\x07\x1b[2J\x9b31m",
    "line\nline\r\n\ttab\u2028\u2029",
    "\ud800lone\udfff",
    "nul\x00byte\ufffe\uffff",
    "\ufeff\u200bno\u00adwidth\U000e0041",
    '=HYPERLINK("http://evil.test","x")',
    "+cmd|' /C calc'!A0",
    "Zalgo e\u0301\u0489\u0488 \u05d0\u05d1\u05d2 \u0627\u0644",
    "long " + "<x>" * 1365,
)

_LITERAL = {"severity", "confidence", "state"}  # keys whose values are of a fixed set
_FIXED = {"user", "kernel", "exited", "drgn", "crash", "volshell"}


def finding(number: int, severity: str = "high", **changes: object) -> Finding:
    """A finding about the VMA at ``number`` × 64 KiB above 0x400000 of process 100 + ``number``."""
    start = 0x400000 + 0x10000 * number
    facts: dict[str, Any] = {
        "id": f"{number:012x}",
        "rule": "VMA-MISSING",
        "rule_title": "VMA has been taken out of the memory map",
        "severity": severity,
        "confidence": "high",
        "pid": 100 + number,
        "comm": f"victim{number}",
        "mm": hex(0xFFFF888000000000 + number),
        "start": hex(start),
        "end": hex(start + 0x4000),
        "title": f"executable VMA {start:#x}-{start + 0x4000:#x} has been taken out of the maple tree",
        "why": "The VMA's pages stay mapped and usable.",
        "lock": "free",
        "vma": hex(0xFFFF888100000000 + number),
        "flags": ("VM_READ", "VM_EXEC"),
        "evidence": (
            Evidence(what="map_count is 3", view="counters", address="0xffff888000000068", found="3", expected="2"),
            Evidence(what="the range is free", view="maple tree", address=None, found="", expected=""),
        ),
        "dumps": (
            Hexdump(what="first bytes of the VMA", address=hex(start), data="7f454c4602010100" * 3),
            Hexdump(what="the vm_area_struct", address="0xffff888100000000", data=None),
        ),
        "by_hand": (
            HandCheck(tool="drgn", lines=('prog["init_task"].mm', "second line")),
            HandCheck(tool="crash", lines=("vm 101",)),
            HandCheck(tool="volshell", lines=("dt('mm_struct')",)),
        ),
        "benign_causes": ("the image was taken while the machine ran", "memory corruption"),
        "attack": (Technique(id="T1014", name="Rootkit"), Technique(id="T1564", name="Hide Artifacts")),
    }
    return Finding(**(facts | changes))


def memory_map(number: int, *, regions: int = 5) -> MemoryMap:
    """The address space that ``finding(number)`` is about, with that many regions."""
    hidden = 0x400000 + 0x10000 * number
    rows = [_row(hidden, hex(0xFFFF888100000000 + number), missing=True)]
    rows += [_row(hidden + 0x4000 + 0x40000000 * at, hex(0xFFFF888200000000 + at)) for at in range(regions - 1)]
    return MemoryMap(
        pid=100 + number,
        comm=f"victim{number}",
        mm=hex(0xFFFF888000000000 + number),
        views=VIEWS,
        rows=tuple(rows),
        index="maple tree",
        nodes=(
            Node(
                address="0xa1e",
                parent=None,
                kind="maple_arange_64",
                start="0x0",
                end="0xffffffffffffffff",
                entries=2,
                wrong="",
            ),
            Node(
                address="0xb0c",
                parent="0xa1e",
                kind="maple_leaf_64",
                start="0x0",
                end="0x5fffff",
                entries=1,
                wrong="two empty ranges side by side",
            ),
            Node(
                address="0xc0c",
                parent="0xa1e",
                kind="maple_leaf_64",
                start="0x600000",
                end="0xffffffffffffffff",
                entries=9,
                wrong="",
            ),
        ),
    )


def _row(start: int, vma: str, *, missing: bool = False) -> Row:
    return Row(
        start=hex(start),
        end=hex(start + 0x4000),
        perms="r-xp",
        name="/usr/lib/x86_64-linux-gnu/libc.so.6",
        vma=vma,
        cells={
            "maple tree": Cell(state="missing") if missing else Cell(state="held", address="0xffff888300000000"),
            "page tables": Cell(state="held", address="0x1000", note="4 pages"),
            "slab": Cell(state="unread"),
            "i_mmap": Cell(state="none"),
        },
    )


def process(pid: int, parent: int | None = 1, **changes: object) -> Process:
    """A process with one view and two counters, the first of which disagrees."""
    facts: dict[str, Any] = {
        "pid": pid,
        "comm": f"victim{pid - 100}",
        "exe": "/usr/sbin/victim",
        "parent": parent,
        "started": "2024-01-01T00:00:07Z",
        "kind": "user",
        "task": hex(0xFFFF888400000000 + pid),
        "mm": hex(0xFFFF888000000000 + pid - 100),
        "lock": "free",
        "shares_with": None,
        "threads": (Thread(tid=pid + 1000, comm="worker", task="0xffff888500000000"),),
        "views": (ViewSummary(view="maple tree", regions=1234, complete=False),),
        "counters": (
            Counter(name="map_count", stored=4321, areas=4320),
            Counter(name="total_vm", stored=9000, areas=9000),
        ),
        "regions": [],
    }
    return Process(**(facts | changes))


def scanned() -> ScanPart:
    """What two rules matched: one in memory of two processes, hidden in one, the other in a file that nobody maps."""
    owners = tuple(
        Owner(
            pid=100 + at,
            comm=f"victim{at}",
            mm=hex(0xFFFF888000000000 + at),
            address="0x7f0000001010",
            start="0x7f0000001000",
            end="0x7f0000002000",
            perms="r-xp",
            name="/usr/lib/x86_64-linux-gnu/libc.so.6",
            hidden=at == 1,
            shown_by=("page tables",),
        )
        for at in range(2)
    )
    match = ScanMatch(pattern="$beacon", offset=16, physical="0x1234010", length=6, data="626561636f6e", text="beacon")
    found = ScanFinding(
        id="0badc0de",
        rule="planted",
        namespace="rules",
        tags=("demo",),
        meta={"description": "A word that was planted"},
        where="process memory",
        place="/usr/lib/x86_64-linux-gnu/libc.so.6",
        file="0xffff888200000000",
        holders=(),
        start="0x7f0000001000",
        size=4096,
        matches=(match,),
        more_matches=2,
        owners=owners,
        more_owners=0,
    )
    kept = msgspec.structs.replace(
        found, id="0ddba11", rule="kept", meta={}, owners=(), matches=(), holders=("pid 7 (sh), fd 3",), place="memfd"
    )
    return ScanPart(
        rules=(RuleFile(path="planted.yar", sha256="cd" * 32),),
        findings=[found, kept],
        more_findings=0,
        scanned=(ScannedAmount(where="process memory", stretches=2, bytes=8192, missing=0),),
        shared_pages=1,
        strings=[],
        not_scanned=[NotScanned(what="0x7f0000005000", why="not in the dump")],
    )


def example() -> Document:
    """A document with a finding of each severity, a memory map, an index with something wrong, processes of each
    kind, and things not assessed."""
    severities = ("info", "low", "medium", "high", "critical")
    kernel = process(2, None, comm="kthreadd", kind="kernel", mm=None, lock=None, threads=(), views=(), counters=())
    return Document(
        schema=Schema(),
        image=ImageFacts(page_size=4096, ram="0x20000000", ranges=(("0x0", "0x20000000"),)),
        kernel=KernelFacts(
            release="6.1.0-56-amd64",
            banner="Linux version 6.1.0-56-amd64 (gcc)",
            build_id="eb4fbcd0",
            architecture="x86-64",
            page_table_levels=4,
            page_table_isolation=False,
            kaslr_offset="0x1b200000",
            phys_base=-293601280,
            hostname="web01",
            booted="2024-01-01T00:00:00Z",
            clock="2024-01-01T00:10:00Z",
            crashed=None,
            processes=7,
            threads=14,
            kernel_threads=1,
            address_spaces=6,
            views=("task list", *VIEWS),
        ),
        processes=[
            process(1, None, comm="init"),
            *(process(100 + number, 1) for number in range(5)),
            process(200, 101, comm="exited", kind="exited", mm=None, shares_with=101),
            kernel,
        ],
        findings=[finding(number, severity) for number, severity in enumerate(severities)],
        maps=[memory_map(3), memory_map(4)],
        not_assessed=[
            NotAssessed(what="page tables", why="0x1234: not in the dump", pid=101, count=7),
            NotAssessed(what="image file", why="cut short"),
        ],
        provenance=Provenance(
            tool="vmaforensics",
            version="9.9",
            python="3.11.7",
            dependencies={"numpy": "2.0"},
            file=FileFacts(
                path="/evidence/web01.kdump",
                size=5945877,
                format="kdump",
                sha256="ab" * 32,
                details={"compression": "zstd", "dump level": "31"},
            ),
            coverage=Coverage(ram=131136, present=8761, zero=67, absent=122308),
            vmcoreinfo="note of the kdump image",
            symbols="kallsyms at physical 0xbd2ddd8",
            types="BTF at 0xffffffff9d6c1b88",
            translation="page tables at physical 0xc410000",
        ),
        scan=scanned(),
    )


def clean() -> Document:
    """The same machine with nothing to find and nothing left out."""
    whole = msgspec.structs.replace(example().provenance, coverage=Coverage(ram=9, present=9, zero=0, absent=0))
    return msgspec.structs.replace(example(), findings=[], scan=None, maps=[], not_assessed=[], provenance=whole)


def hostile(document: Document, *, addresses: bool) -> Document:
    """``document`` with a hostile string in place of every string; ``addresses``: also of hexadecimal ones.

    Equal strings stay equal and different ones different, so that what belongs together still does.
    """
    given: dict[str, str] = {}

    def replace(text: str, key: str) -> str:
        if not text or ((text.startswith("0x") or key == "data") and not addresses):
            return text
        if text not in given:
            given[text] = f"{HOSTILE[len(given) % len(HOSTILE)]}{len(given)}"
        return given[text]

    return msgspec.convert(_walk(msgspec.to_builtins(document), replace), Document)


def _walk(value: Any, replace: Callable[[str, str], str], key: str = "") -> Any:  # noqa: ANN401 - as JSON has it
    if isinstance(value, dict):
        free = key in ("cells", "details", "dependencies")  # maps whose keys are data
        return {replace(name, "") if free else name: _walk(item, replace, name) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_walk(item, replace, key) for item in value]
    if isinstance(value, str) and key not in _LITERAL and value not in _FIXED:
        return replace(value, key)
    return value
