"""The tables that SQL sees, each a structured array: those of a document, and what is made of it or of the image.

Addresses are ``uint64``, everything that is counted is signed: a result shows the former in hexadecimal.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.report.document.modules import MODULES
from vmaforensics.report.document.tables import TABLES, columns_of_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from vmaforensics.report.document.document import Document

THREADS = np.dtype([("pid", "i8"), ("tid", "i8"), ("comm", "O"), ("task", "u8"), ("leader", "?")])
FILES = np.dtype(
    [("name", "O"), ("dev", "O"), ("inode", "i8"), ("vmas", "i8"), ("processes", "i8"), ("executable", "?")]
)
PTES = np.dtype(
    [
        ("pid", "i8"),
        ("comm", "O"),
        ("mm", "u8"),
        ("va", "u8"),  # first address that the entry maps
        ("pages", "i8"),
        ("level", "i8"),  # of the page table
        ("state", "O"),  # present, prot_none, swap, other
        ("perms", "O"),
        ("entry", "u8"),
        ("at", "u8"),  # physical address of the entry
        ("pfn", "u8"),
        ("anon", "?"),  # the page is anonymous memory
        ("mapcount", "i8"),
        ("refcount", "i8"),
        ("mapping", "u8"),  # address_space or anon_vma
        ("page_index", "i8"),
        ("vma", "u8"),  # vm_area_struct that covers it; 0: none does
    ]
)
_COUNTS = frozenset({"size", "inode"})  # unsigned columns of documents that are no addresses
_TYPES = {"O": "VARCHAR", "b": "BOOLEAN", "i": "BIGINT", "u": "UBIGINT", "M": "TIMESTAMP"}
_MOST = (1 << 63) - 1


def of_document(document: Document, name: str) -> NDArray[np.void]:
    """The table ``name`` of a document: one of :data:`OF_DOCUMENTS`."""
    return OF_DOCUMENTS[name](document)


def _threads(document: Document) -> NDArray[np.void]:
    rows: list[tuple[int, int, str, str, bool]] = []
    for process in document.processes:
        rows.append((process.pid, process.pid, process.comm, process.task, True))
        rows += [(process.pid, thread.tid, thread.comm, thread.task, False) for thread in process.threads]
    return columns_of_rows(
        THREADS,
        len(rows),
        pid=[row[0] for row in rows],
        tid=[row[1] for row in rows],
        comm=[row[2] for row in rows],
        task=[int(row[3], 16) for row in rows],
        leader=[row[4] for row in rows],
    )


def _files(document: Document) -> NDArray[np.void]:
    """Every file that a region maps, by name, device and inode."""
    vmas: Counter[tuple[str, str, int]] = Counter()
    owners: dict[tuple[str, str, int], set[int]] = {}
    code: set[tuple[str, str, int]] = set()
    for process in document.processes:
        for region in process.regions:
            if region.inode:
                key = (region.name, region.dev, region.inode)
                vmas[key] += 1
                owners.setdefault(key, set()).add(process.pid)
                if "x" in region.perms:
                    code.add(key)
    keys = sorted(vmas)
    return columns_of_rows(
        FILES,
        len(keys),
        name=[key[0] for key in keys],
        dev=[key[1] for key in keys],
        inode=[min(key[2], _MOST) for key in keys],
        vmas=[vmas[key] for key in keys],
        processes=[len(owners[key]) for key in keys],
        executable=[key in code for key in keys],
    )


def _of(name: str) -> Callable[[Document], NDArray[np.void]]:
    return lambda document: TABLES[name](document.processes, document.findings)


OF_DOCUMENTS: dict[str, Callable[[Document], NDArray[np.void]]] = {
    "processes": _of("processes"),
    "threads": _threads,
    "vmas": _of("regions"),
    "files": _files,
    "findings": _of("findings"),
    "evidence": _of("evidence"),
    "matches": lambda document: document.table("matches"),
}
# What only an image has, and the columns it has there.
OF_IMAGES: dict[str, np.dtype[np.void]] = {"modules": MODULES, "ptes": PTES}
NAMES = (*OF_DOCUMENTS, *OF_IMAGES)


def for_duckdb(image: str, rows: NDArray[np.void]) -> dict[str, NDArray[np.generic]]:
    """Columns by name, as DuckDB takes them; ``image`` is the first of them."""
    columns: dict[str, NDArray[np.generic]] = {"image": np.full(len(rows), image, object)}
    for name in rows.dtype.names or ():
        values = np.ascontiguousarray(rows[name])
        if name in _COUNTS and values.dtype.kind == "u":
            values = np.minimum(values, np.uint64(_MOST)).astype(np.int64)
        columns[name] = values
    return columns


def created(name: str, columns: Mapping[str, NDArray[np.generic]]) -> str:
    """The statement that makes a table of such columns."""
    described = ", ".join(f'"{column}" {_TYPES[values.dtype.kind]}' for column, values in columns.items())
    return f"CREATE TABLE {name} ({described})"
