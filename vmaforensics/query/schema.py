"""What ``.tables`` and ``.schema`` say, without reading anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import UsageError
from vmaforensics.query.tables import FILES, OF_DOCUMENTS, OF_IMAGES, THREADS, created, for_duckdb
from vmaforensics.report.document.scan_table import MATCHES
from vmaforensics.report.document.tables import EVIDENCE, FINDINGS, PROCESSES, REGIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_COLUMNS: dict[str, np.dtype[np.void]] = {
    "processes": PROCESSES,
    "threads": THREADS,
    "vmas": REGIONS,
    "files": FILES,
    "findings": FINDINGS,
    "evidence": EVIDENCE,
    "matches": MATCHES,
    **OF_IMAGES,
}


def told(command: str, names: Sequence[str]) -> Iterator[str]:
    """Lines that answer ``.tables`` or ``.schema [TABLE]``. Raises :class:`UsageError` for anything else."""
    words = command.split()
    if words[0] == ".tables" and len(words) == 1:
        yield from (f"{name}\n" for name in names)
        return
    if words[0] != ".schema" or len(words) > 2:
        raise UsageError(f"{words[0]} is no command; .tables and .schema [TABLE] are")
    for name in words[1:] or names:
        if name not in _COLUMNS:
            raise UsageError(f"there is no table {name}; there are {', '.join(names)}")
        columns = for_duckdb("", np.zeros(0, _COLUMNS[name]))
        yield f"{created(name, columns)};\n"


assert set(_COLUMNS) == {*OF_DOCUMENTS, *OF_IMAGES}
