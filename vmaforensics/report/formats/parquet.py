"""One of the document's tables as Apache Parquet, for many images at once (DuckDB, polars, Spark, pandas).

The table ``regions`` has a row per region and index, whose columns ``view``, ``state`` (held or missing) and ``at``
say whether that index holds the region, and where. Addresses are declared ``uint64``. Every row names its image, so
that the files of many images can be read as one table.

Needs pyarrow: ``pip install 'vmaforensics[parquet]'``.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from vmaforensics.report.document.tables import INDICES
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.report.document.document import Document

_TYPES = {"u8": "uint64", "i8": "int64", "f8": "float64", "b1": "bool_"}


def render_parquet(document: Document, *, table: str = "regions") -> bytes:
    """The table called ``table``; see ``report/document/tables.py``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = document.table(table)
    columns = _region_views(pa, rows) if table == "regions" else arrow_columns(pa, rows, list(rows.dtype.names or ()))
    length = len(next(iter(columns.values())))
    kernel, file = document.kernel, document.provenance.file
    about = {
        "image": file.path,
        "image_sha256": file.sha256,
        "hostname": kernel.hostname,
        "kernel_release": kernel.release,
        "kernel_build_id": kernel.build_id,
    }
    same = {key: _repeated(pa, value, length) for key, value in about.items()}
    stream = io.BytesIO()
    whole = pa.table({**same, **columns}).replace_schema_metadata(
        {"vmaforensics": document.provenance.version, "schema": document.schema.version, "table": table}
    )
    pq.write_table(whole, stream, compression="zstd")
    return stream.getvalue()


def _region_views(pa: Any, rows: NDArray[np.void]) -> dict[str, Any]:  # noqa: ANN401 - pyarrow has no types
    """A row per region and index the kernel has, the indices of one region one after the other."""
    views = [name for name in INDICES if (rows[name] != "").any()]
    own = [name for name in rows.dtype.names or () if name not in INDICES and not name.endswith("_at")]
    at = np.repeat(np.arange(len(rows)), len(views))
    columns = arrow_columns(pa, rows[own], own)
    columns = {name: column.take(pa.array(at)) for name, column in columns.items()}
    states = np.stack([rows[view] for view in views], 1).ravel() if views else np.zeros(0, object)
    slots = np.stack([rows[f"{view}_at"] for view in views], 1).ravel() if views else np.zeros(0, np.uint64)
    columns["view"] = pa.array(np.tile(np.array(views, object), len(rows)), pa.string()).dictionary_encode()
    columns["state"] = pa.array(states, pa.string()).dictionary_encode()
    columns["at"] = pa.array(slots, pa.uint64(), mask=slots == 0)
    return columns


def arrow_columns(pa: Any, rows: NDArray[np.void], names: list[str]) -> dict[str, Any]:  # noqa: ANN401
    """Columns of a structured array as arrays of pyarrow (``pa``): texts printable and each once, times in UTC."""
    columns = {}
    for name in names:
        values, kind = np.ascontiguousarray(rows[name]), rows.dtype[name]
        if kind.kind == "O":
            known = {text: printable(text) for text in set(values.tolist())}
            columns[name] = pa.array([known[text] for text in values.tolist()], pa.string()).dictionary_encode()
        elif kind.kind == "M":
            columns[name] = pa.array(values, pa.timestamp("s")).cast(pa.timestamp("s", "UTC"))
        else:
            columns[name] = pa.array(values, getattr(pa, _TYPES[kind.str[1:]])())
    return columns


def _repeated(pa: Any, value: str | None, length: int) -> Any:  # noqa: ANN401
    """One text in every row, stored once; nulls without one."""
    indices = pa.array(np.zeros(length, np.int32), mask=np.full(length, value is None))
    return pa.DictionaryArray.from_arrays(indices, pa.array([printable(value or "")], pa.string()))
