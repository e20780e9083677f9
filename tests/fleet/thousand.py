"""A dataset of a thousand machines made of one that was really run: its rows, again and again, under other names.

    python -m tests.fleet.thousand DATASET OUT [--count 1000]

For the page: what it weighs, how long it takes, and how it looks with that many. The machines of each round are in a
folder of their own; nothing else of their rows is changed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from vmaforensics.fleet.dataset import open_dataset
from vmaforensics.fleet.page import render_page
from vmaforensics.fleet.tables import TABLES


def multiply(dataset: Path, out: Path, count: int) -> None:
    """Write about ``count`` machines into a new dataset ``out``: whole rounds of those of ``dataset``, a file each."""
    open_dataset(out, resume=False)
    tables = {name: ds.dataset(_files(dataset, name)).to_table() for name in TABLES}
    keys = tables["images"].column("image").cast(pa.string()).to_pylist()
    for rack in range(-(-count // len(keys))):
        for name, rows in tables.items():
            pq.write_table(_renamed(rows, rack), out / "tables" / name / f"rack-{rack}.parquet")
        for key in keys:
            (out / "reports" / f"{rack:02x}{key[2:]}.html").write_bytes(b"")


def _files(dataset: Path, table: str) -> list[Path]:
    return sorted((dataset / "tables" / table).glob("[0-9a-f]*.parquet"))


def _renamed(rows: pa.Table, rack: int) -> pa.Table:
    key = pc.replace_substring_regex(rows.column("image").cast(pa.string()), "^..", f"{rack:02x}")
    rows = rows.set_column(rows.column_names.index("image"), "image", key)
    if "location" in rows.column_names:
        told = rows.column("location").cast(pa.string())
        names = pc.replace_substring_regex(told, "/([^/]*)$", f"/rack-{rack}/\\1")
        rows = rows.set_column(rows.column_names.index("location"), "location", names)
    return rows


def main() -> int:
    """Multiply, and make the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    args = parser.parse_args()
    multiply(args.dataset, args.out, args.count)
    began = time.process_time()
    page = render_page(args.out).encode()
    (args.out / "index.html").write_bytes(page)
    taken = time.process_time() - began
    sys.stdout.write(f"about {args.count:,} machines: a page of {len(page):,} bytes, {taken:.1f} s of CPU\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
