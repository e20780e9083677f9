"""A dataset of a thousand machines made of one that was really run: its rows, again and again, under other names.

    python -m tests.fleet.thousand DATASET OUT [--count 1000]

For the page: what it weighs, how long it takes, and how it looks with that many. The machines of each round are in a
folder of their own; nothing else of their rows is changed.
"""

from __future__ import annotations

import argparse
import sys
import time
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vmaforensics.fleet.dataset import open_dataset
from vmaforensics.fleet.page import render_page
from vmaforensics.fleet.tables import TABLES


def multiply(dataset: Path, out: Path, count: int) -> None:
    """Write ``count`` machines into a new dataset ``out``."""
    open_dataset(out, resume=False)
    keys = sorted(path.stem for path in (dataset / "tables" / "images").glob("[0-9a-f]*.parquet"))
    for number in range(count):
        rack, key = number // len(keys), keys[number % len(keys)]
        new = sha256(f"{rack} {key}".encode()).hexdigest()[:16]
        for table in TABLES:
            path = dataset / "tables" / table / f"{key}.parquet"
            if path.exists():
                pq.write_table(_renamed(pq.read_table(path), new, rack), out / "tables" / table / f"{new}.parquet")
        (out / "reports" / f"{new}.html").write_bytes(b"")


def _renamed(rows: pa.Table, key: str, rack: int) -> pa.Table:
    image = pa.DictionaryArray.from_arrays(pa.array([0] * len(rows), pa.int32()), pa.array([key], pa.string()))
    rows = rows.set_column(rows.column_names.index("image"), "image", image)
    if "location" in rows.column_names:
        at = rows.column_names.index("location")
        told = rows.column(at).cast(pa.string())
        names = pc.replace_substring_regex(told, "/([^/]*)$", f"/rack-{rack}/\\1")
        rows = rows.set_column(at, "location", names)
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
    sys.stdout.write(f"{args.count:,} machines: a page of {len(page):,} bytes, {taken:.1f} s of CPU\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
