"""Datasets made by hand: rows of machines that no image stands behind, so that each answer is known beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.fleet.dataset import open_dataset, write_rows
from vmaforensics.fleet.sources import Source
from vmaforensics.fleet.tables import TABLES, Outcome, image_row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


def made_rows(table: str, rows: Sequence[Mapping[str, object]]) -> NDArray[np.void]:
    """Rows of a table; a column that is not given is empty or zero, and a module on the list."""
    dtype = TABLES[table]
    made = np.zeros(len(rows), dtype)
    for name in dtype.names or ():
        if dtype[name].kind == "O":
            made[name] = ""
        elif dtype[name].kind == "M":
            made[name] = np.datetime64("NaT")
        elif name == "listed":
            made[name] = True
        for at, row in enumerate(rows):
            if name in row:
                made[name][at] = row[name]
    return made


def add_machine(
    folder: Path, name: str, *, role: str = "", build: str = "b1", **tables: Sequence[Mapping[str, object]]
) -> Source:
    """A machine that could be analysed, with these rows."""
    source = Source(location=f"/images/{name}", role=role, size=1, modified=1)
    row = image_row(source, Outcome("ok", 0, "", 1.0))
    row["build_id"], row["release"], row["processes"] = build, "6.1.0", 1
    for column, value in (tables.pop("image", [{}])[0]).items():
        row[column] = value
    filled = {table: made_rows(table, tables.get(table, ())) for table in TABLES if table != "images"}
    write_rows(folder, source.key, {"images": row, **filled})
    return source


def new_dataset(folder: Path) -> Path:
    """An empty dataset in a new folder."""
    open_dataset(folder, resume=False)
    return folder
