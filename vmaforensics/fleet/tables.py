"""The tables of the dataset: their columns, and the rows of one image. The schema has a version of its own.

Every row begins with ``image``, the key of its image. Tables whose columns are those of a document's
(``report/document/tables.py``) are not spelled out here a second time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.fleet.code import each_content, read_code
from vmaforensics.fleet.hooks import HOOKS, hooks_of
from vmaforensics.report.document.modules import MODULES, modules_table
from vmaforensics.report.document.parts import NotAssessed
from vmaforensics.report.document.tables import FINDINGS, PROCESSES, REGIONS, columns_of_rows
from vmaforensics.report.document.verdict import SEVERITIES
from vmaforensics.version import __version__
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vmaforensics.analysis import Analysis
    from vmaforensics.fleet.code import Code
    from vmaforensics.fleet.sources import Source
    from vmaforensics.report.document.document import Document

SCHEMA_VERSION: Final = "2.0"

IMAGES: Final = np.dtype(
    [
        ("location", "O"),  # path or URL, made printable
        ("role", "O"),  # what kind of machine it is, as the list or the folder says
        ("size", "u8"),  # bytes of the file
        ("modified", "u8"),  # nanoseconds since the epoch; 0: not known
        ("status", "O"),  # "ok", "failed": error and exit_code say why, "killed": the worker died over it
        ("exit_code", "i8"),  # as of the command line
        ("error", "O"),
        ("format", "O"),
        ("sha256", "O"),  # empty unless asked for
        ("hostname", "O"),
        ("release", "O"),
        ("build_id", "O"),
        ("verdict", "O"),
        ("worst", "O"),  # the highest severity of a finding, empty for none
        *((severity, "i8") for severity in SEVERITIES),  # findings
        ("not_assessed", "i8"),
        ("processes", "i8"),
        ("vmas", "i8"),
        ("ram", "i8"),  # pages
        ("held", "i8"),  # pages of them that the file has
        ("acquired", "O"),  # "atomic", "live", "unknown"; empty: not told
        ("booted", "datetime64[s]"),
        ("taken", "datetime64[s]"),  # the kernel's own time
        ("crashed", "?"),
        ("fingerprint", "O"),  # of the crash
        ("seconds", "f8"),  # that the task took
        ("vmaforensics", "O"),  # version
    ]
)
KERNELS: Final = np.dtype(
    [
        ("release", "O"),
        ("banner", "O"),
        ("build_id", "O"),
        ("architecture", "O"),
        ("levels", "i8"),  # of page tables
        ("isolation", "O"),  # of page tables: "on", "off", "unknown"
        ("views", "O"),  # records that were read, with a comma between
        ("symbols", "O"),  # where they come from
        ("types", "O"),
    ]
)
EXECUTABLES: Final = np.dtype(
    [
        ("pid", "i8"),
        ("comm", "O"),
        ("mm", "u8"),
        ("start", "u8"),
        ("end", "u8"),
        ("perms", "O"),
        ("name", "O"),
        ("pgoff", "u8"),
        ("inode", "u8"),
        ("pages", "i8"),
        ("mapped", "i8"),  # pages that are in page tables as executable
        ("hashed", "i8"),  # of these, pages whose bytes are in the image
        ("content", "O"),  # names the whole content; empty where a page is missing
    ]
)
CODE: Final = np.dtype(
    [
        ("name", "O"),  # of the region: a path, "[heap]", …; empty: anonymous
        ("outside", "?"),  # executable in page tables, in no region
        ("page", "i8"),  # its number in the file; of other memory, in the address space
        ("content", "O"),  # BLAKE2b of the page, 128 bits; empty for a page of zeros
        ("address_spaces", "i8"),
    ]
)
CRASHES: Final = np.dtype(
    [
        ("kind", "O"),
        ("how", "O"),
        ("text", "O"),
        ("cause", "O"),
        ("fingerprint", "O"),
        ("functions", "O"),  # of the fingerprint, with " < " between
        ("pid", "i8"),
        ("comm", "O"),
    ]
)
GAPS: Final = np.dtype([("what", "O"), ("why", "O"), ("pid", "i8"), ("count", "i8")])

TABLES: Final = {
    "images": IMAGES,
    "kernels": KERNELS,
    "modules": MODULES,
    "hooks": HOOKS,
    "processes": PROCESSES,
    "vmas": REGIONS,
    "findings": FINDINGS,
    "executables": EXECUTABLES,
    "code": CODE,
    "crashes": CRASHES,
    "gaps": GAPS,
}


class Outcome(NamedTuple):
    """How the task of an image ended."""

    status: str
    exit_code: int
    error: str
    seconds: float


def rows_of_image(
    source: Source, document: Document, analysis: Analysis, outcome: Outcome
) -> dict[str, NDArray[np.void]]:
    """The rows of every table, ``image`` left out."""
    regions = document.table("regions")
    code = read_code(analysis, regions)
    hooks, hooks_left_out = hooks_of(analysis.views.road)
    return {
        "images": image_row(source, outcome, document),
        "kernels": _kernel(document),
        "modules": modules_table(analysis.kernel, analysis.views.road),
        "hooks": hooks,
        "processes": document.table("processes"),
        "vmas": regions,
        "findings": document.table("findings"),
        **_code(analysis, regions, code),
        "crashes": _crashes(document),
        "gaps": _gaps(document, code.left_out, hooks_left_out),
    }


def image_row(source: Source, outcome: Outcome, document: Document | None = None) -> NDArray[np.void]:
    """The one row of ``images``; without a document that of an image that could not be analysed."""
    row = np.zeros(1, IMAGES)
    for name in (name for name in IMAGES.names or () if IMAGES[name].kind == "O"):
        row[name] = ""
    row["booted"] = row["taken"] = np.datetime64("NaT")
    row["location"], row["role"] = printable(source.location), printable(source.role)
    row["size"], row["modified"] = source.size, source.modified
    row["status"], row["exit_code"], row["error"], row["seconds"] = outcome
    row["vmaforensics"] = __version__
    if document is not None:
        _fill(row, document)
    return row


def _fill(row: NDArray[np.void], document: Document) -> None:
    kernel, file, pages = document.kernel, document.provenance.file, document.provenance.coverage
    severities: list[str] = [finding.severity for finding in document.findings]
    row["format"], row["sha256"] = file.format, file.sha256 or ""
    row["hostname"], row["release"], row["build_id"] = kernel.hostname, kernel.release, kernel.build_id or ""
    row["verdict"] = document.verdict
    row["worst"] = next((severity for severity in SEVERITIES if severity in severities), "")
    for severity in SEVERITIES:
        row[severity] = severities.count(severity)
    row["not_assessed"], row["processes"] = len(document.not_assessed), kernel.processes
    row["vmas"] = sum(len(process.regions) for process in document.processes)
    row["ram"], row["held"] = pages.ram, pages.present + pages.zero
    row["acquired"] = "" if document.acquired is None else document.acquired.how
    row["booted"] = np.datetime64((kernel.booted or "NaT").rstrip("Z"), "s")
    row["taken"] = np.datetime64((kernel.clock or "NaT").rstrip("Z"), "s")
    death = None if document.crash is None else document.crash.death
    row["crashed"] = death is not None
    row["fingerprint"] = "" if death is None else death.fingerprint or ""


def _kernel(document: Document) -> NDArray[np.void]:
    kernel, origin = document.kernel, document.provenance
    isolation = {True: "on", False: "off", None: "unknown"}[kernel.page_table_isolation]
    return columns_of_rows(
        KERNELS,
        1,
        release=[kernel.release],
        banner=[kernel.banner],
        build_id=[kernel.build_id or ""],
        architecture=[kernel.architecture],
        levels=[kernel.page_table_levels],
        isolation=[isolation],
        views=[", ".join(kernel.views)],
        symbols=[origin.symbols],
        types=[origin.types],
    )


def _code(analysis: Analysis, regions: NDArray[np.void], code: Code) -> dict[str, NDArray[np.void]]:
    may = np.array(["x" in perms for perms in regions["perms"].tolist()], np.bool_)
    kept = np.flatnonzero(may | (code.mapped > 0))
    of = regions[kept]
    executables = columns_of_rows(
        EXECUTABLES,
        len(kept),
        **{name: of[name] for name in ("pid", "comm", "mm", "start", "end", "perms", "name", "pgoff", "inode")},
        pages=of["size"].astype(np.int64) // analysis.kernel.arch.page_size,
        mapped=code.mapped[kept],
        hashed=code.hashed[kept],
        content=[code.content[row] for row in kept.tolist()],
    )
    pages = code.pages.take(code.pages.ok)
    names, name_of = _numbered([*regions["name"].tolist(), ""])  # the last of them is that of no region, row -1
    pages, spaces = each_content(pages, name_of[pages.region])
    return {
        "executables": executables,
        "code": columns_of_rows(
            CODE,
            len(pages),
            name=[names[number] for number in name_of[pages.region].tolist()],
            outside=pages.region < 0,
            page=pages.index,
            content=[
                "" if zero else f"{low:016x}{high:016x}"
                for zero, low, high in zip(pages.zero.tolist(), pages.low.tolist(), pages.high.tolist(), strict=True)
            ],
            address_spaces=spaces,
        ),
    }


def _numbered(texts: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """The distinct texts, and which each of ``texts`` is."""
    known: dict[str, int] = {}
    numbers = [known.setdefault(text, len(known)) for text in texts]
    return list(known), np.array(numbers, np.int64)


def _crashes(document: Document) -> NDArray[np.void]:
    death = None if document.crash is None else document.crash.death
    deaths = [] if death is None else [death]
    return columns_of_rows(
        CRASHES,
        len(deaths),
        kind=[death.kind for death in deaths],
        how=[death.how for death in deaths],
        text=[death.text or "" for death in deaths],
        cause=[death.cause or "" for death in deaths],
        fingerprint=[death.fingerprint or "" for death in deaths],
        functions=[" < ".join(death.functions) for death in deaths],
        pid=[-1 if death.pid is None else death.pid for death in deaths],
        comm=[death.comm or "" for death in deaths],
    )


def _gaps(document: Document, pages: int, hooks: int) -> NDArray[np.void]:
    """What was not assessed; ``pages`` of code were not hashed, ``hooks`` have no row."""
    rows = list(document.not_assessed)
    if pages:
        rows.append(NotAssessed(what="code by content", why="more pages than are hashed", count=pages))
    if hooks:
        rows.append(NotAssessed(what="hooks", why="more of one kind than have rows", count=hooks))
    return columns_of_rows(
        GAPS,
        len(rows),
        what=[row.what for row in rows],
        why=[row.why for row in rows],
        pid=[-1 if row.pid is None else row.pid for row in rows],
        count=[row.count for row in rows],
    )
