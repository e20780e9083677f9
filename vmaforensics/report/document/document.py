"""The result document: everything a report shows, without the image. Its JSON form is the interface.

Addresses, sizes of memory and flag words are hexadecimal strings: JSON numbers above 2**53 are rounded by
many readers. Strings from the image are made printable (see ``printable``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmaforensics.report.document.acquired import Acquired  # noqa: TC001 - msgspec reads the annotation
from vmaforensics.report.document.crash_part import CrashPart  # noqa: TC001 - msgspec reads the annotations
from vmaforensics.report.document.data_frames import frame
from vmaforensics.report.document.findings import Finding  # noqa: TC001
from vmaforensics.report.document.html_summary import escaped, table_row
from vmaforensics.report.document.json_text import json_text
from vmaforensics.report.document.parts import (
    SCHEMA_VERSION,
    ImageFacts,
    KernelFacts,
    MemoryMap,
    NotAssessed,
    Part,
    Process,
    Provenance,
    Schema,
)
from vmaforensics.report.document.road_part import RoadPart  # noqa: TC001 - msgspec reads the annotation
from vmaforensics.report.document.scan_table import matches
from vmaforensics.report.document.tables import TABLES
from vmaforensics.report.document.verdict import verdict
from vmaforensics.scan.document import ScanPart  # noqa: TC001 - msgspec reads the annotations

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

_MOST = 20  # findings listed in a notebook


class Document(Part, frozen=True):
    """A whole report."""

    schema: Schema
    image: ImageFacts
    kernel: KernelFacts
    processes: list[Process]
    findings: list[Finding]
    maps: list[MemoryMap]
    not_assessed: list[NotAssessed]
    provenance: Provenance
    acquired: Acquired | None = None  # null: made by a version that did not ask
    maps_left_out: int = 0  # further address spaces that findings name
    road: RoadPart | None = None  # the kernel's code and tables; left out of the JSON form where they were not read
    crash: CrashPart | None = None  # the kernel crashed or complained; left out of the JSON form where it did not
    scan: ScanPart | None = None  # what YARA rules found; left out of the JSON form where none were given

    @property
    def verdict(self) -> str:
        """The outcome in one sentence."""
        told = verdict(self.processes, self.findings, self.not_assessed)
        return told if self.crash is None else f"{self.crash.verdict} {told}"

    def table(self, name: str) -> NDArray[np.void]:
        """ "findings", "evidence", "regions", "processes" or "matches" as a structured array, its rows in the order of
        the document; see ``report/document/tables.py`` and ``scan_table.py``.

        Raises ``KeyError`` for any other name.

        >>> regions = document.table("regions")
        >>> regions[regions["maple"] == "missing"][["pid", "start", "end", "name"]]
        """
        return matches(self.scan) if name == "matches" else TABLES[name](self.processes, self.findings)

    def frame(self, name: str) -> Any:  # noqa: ANN401 - pandas is optional, and so is its type
        """The same as a ``pandas.DataFrame``; addresses stay ``uint64``. Raises ``ImportError`` without pandas.

        >>> document.frame("regions").groupby("name")["size"].sum()
        """
        return frame(self.table(name))

    def _repr_html_(self) -> str:
        """The verdict, the kernel, the findings in a table, for notebooks; not the report, which ``render`` makes."""
        rows = "".join(
            table_row(
                "td",
                (
                    finding.severity,
                    finding.rule,
                    finding.process,
                    "" if finding.start is None else f"{finding.start}–{finding.end}",
                    finding.confidence,
                    finding.title,
                ),
            )
            for finding in self.findings[:_MOST]
        )
        more = len(self.findings) - _MOST
        table = (
            f"<table><thead>{table_row('th', ('severity', 'rule', 'process', 'range', 'confidence', 'what'))}</thead>"
            f"<tbody>{rows}</tbody></table>"
            if rows
            else ""
        )
        return (
            f"<div><p><strong>{escaped(self.verdict)}</strong></p>"
            f"<p>{escaped(self.kernel.release)}, {escaped(self.kernel.architecture)}; "
            f"{escaped(self.provenance.file.path)}</p>{table}"
            + (f"<p>and {more} more findings</p>" if more > 0 else "")
            + "</div>"
        )


def encode(document: Document) -> bytes:
    """The JSON form: one line, keys in the order of the schema, newline at the end."""
    return b"".join(encoded_pieces(document))


def encoded_pieces(document: Document) -> Iterator[bytes]:
    """The JSON form in pieces, the longest of them a process: a whole one takes as much memory as the document."""
    for place, name in enumerate(document.__struct_fields__):
        value = getattr(document, name)
        if name in ("road", "crash", "scan") and value is None:
            continue
        yield b'%s"%s":' % (b"," if place else b"{", name.encode())
        if isinstance(value, list):
            yield b"["
            for number, item in enumerate(value):
                yield (b"," if number else b"") + json_text(item)
            yield b"]"
        else:
            yield json_text(value)
    yield b"}\n"


def json_schema() -> dict[str, object]:
    """The JSON Schema (2020-12) of :class:`Document`."""
    from vmaforensics.words.json_schema import json_schema_of  # a report does without

    return json_schema_of(Document, f"vmaforensics report {SCHEMA_VERSION}")
