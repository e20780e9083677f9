"""The dataset in its folder: a Parquet file per table and image, each written whole or not at all.

``tables/TABLE/KEY.parquet`` are the rows, ``reports/KEY.html`` the report of a machine, ``fleet.json`` the version of
the schema. The file of an image in ``images`` is written last: an image that has one is done.
"""

from __future__ import annotations

import glob
import re
from typing import TYPE_CHECKING, Final, cast

import msgspec
import numpy as np

from vmaforensics.errors import OutputError
from vmaforensics.export.whole_file import whole_file
from vmaforensics.fleet.tables import SCHEMA_VERSION, TABLES
from vmaforensics.report.document.saved import DocumentInvalidError
from vmaforensics.report.formats.parquet import arrow_columns

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

    from vmaforensics.fleet.sources import Source

_ABOUT: Final = "fleet.json"
_SCHEMA: Final = "_schema"
# Files of ``whole_file``, and copies of URLs.
_HALF: Final = re.compile(r"\.[0-9a-f]{16}(\..{1,16})?|\.[\w.]{1,64}\.[0-9a-f]{16}")


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What ``fleet.json`` says."""

    name: str = "vmaforensics-fleet"
    schema: str = SCHEMA_VERSION
    tables: tuple[str, ...] = tuple(TABLES)


def open_dataset(folder: Path, *, resume: bool) -> None:
    """Make sure that ``folder`` is a dataset: a new or empty folder becomes one, one with something in it only goes on.

    Raises :class:`OutputError` where it holds anything and ``resume`` is not given, where it is no dataset, and where
    it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = any(folder.iterdir())
    except FileExistsError:
        raise OutputError(f"{folder} exists and is no folder") from None
    except OSError as error:
        raise OutputError(f"cannot write into {folder}: {error.strerror}") from None
    if held and not resume:
        raise OutputError(
            f"the folder {folder} is not empty; give --resume to go on with what it holds, or another one"
        )
    if held:
        require_dataset(folder)
    for name in ("reports", *(f"tables/{table}" for table in TABLES)):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for table, dtype in TABLES.items():
        # A table without an image has its columns all the same.
        _write_table(_place(folder, table, _SCHEMA), "", table, np.zeros(0, dtype))
    _write(folder / _ABOUT, msgspec.json.encode(About()) + b"\n")


def require_dataset(folder: Path) -> None:
    """Raise :class:`DocumentInvalidError` where ``folder`` is no dataset of this schema."""
    try:
        about = msgspec.json.decode((folder / _ABOUT).read_bytes(), type=About)
    except (OSError, msgspec.MsgspecError):
        raise DocumentInvalidError(f"{folder} is no dataset of a fleet: it has no readable {_ABOUT}") from None
    if about.name != About().name or about.schema.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
        raise DocumentInvalidError(
            f"{folder} is a dataset of schema {about.schema[:20]!r}, this version has {SCHEMA_VERSION}; make it anew"
        )


def is_done(folder: Path, source: Source) -> bool:
    """Does the dataset have the row of this image, as it is now? What was killed is tried again."""
    import pyarrow.parquet as pq

    path = _place(folder, "images", source.key)
    try:
        row: dict[str, object] = pq.read_table(path, columns=["status", "size", "modified"]).to_pylist()[0]
    except (OSError, IndexError, KeyError, ValueError):
        return False
    same = (row["size"], row["modified"]) == (source.size, source.modified)
    return same and row["status"] != "killed"


def has_rows(folder: Path, key: str) -> bool:
    """Whether the row of an image lies in the dataset, as far as it can be seen from here."""
    return _place(folder, "images", key).exists()


def write_rows(folder: Path, key: str, tables: Mapping[str, NDArray[np.void]]) -> None:
    """Write the tables of an image; of those that are not given, remove what an earlier run has left."""
    for name in reversed(TABLES):  # images comes last
        path = _place(folder, name, key)
        if name in tables:
            _write_table(path, key, name, tables[name])
        else:
            path.unlink(missing_ok=True)


def write_report(folder: Path, key: str, page: bytes | None) -> None:
    """Write the page of a machine, or remove that of an earlier run."""
    path = folder / "reports" / f"{key}.html"
    if page is None:
        path.unlink(missing_ok=True)
    else:
        _write(path, page)


def write_text(folder: Path, name: str, text: str) -> None:
    """A file of the dataset's folder."""
    _write(folder / name, text.encode())


def _place(folder: Path, table: str, key: str) -> Path:
    return folder / "tables" / table / f"{key}.parquet"


def _write_table(path: Path, key: str, name: str, rows: NDArray[np.void]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = arrow_columns(pa, rows, list(rows.dtype.names or ()))
    image = pa.DictionaryArray.from_arrays(pa.array([0] * len(rows), pa.int32()), pa.array([key], pa.string()))
    whole = pa.table({"image": image, **columns})
    whole = whole.replace_schema_metadata({"vmaforensics-fleet": SCHEMA_VERSION, "table": name})
    with whole_file(path) as stream:
        pq.write_table(whole, cast("BinaryIO", stream), compression="zstd")


def _write(path: Path, content: bytes) -> None:
    with whole_file(path) as stream:
        stream.write(content)


def sweep(folder: Path) -> None:
    """Remove what workers that died have left half written. None may be at work."""
    for place in (folder, folder / "reports", *(folder / "tables" / table for table in TABLES)):
        for path in place.glob(".*"):
            if _HALF.fullmatch(path.name):
                path.unlink(missing_ok=True)


def pattern(folder: Path, table: str) -> str:
    """The files of a table, as DuckDB and polars take them; the folder's own name is no pattern."""
    return f"{glob.escape(str(folder))}/tables/{table}/*.parquet"
