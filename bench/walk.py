"""Prints how many entries the user page tables of an image hold and how long walking them takes: python walk.py IMAGE.

The first walk, which has to read the image, does not count; the shortest of the next three does.
"""

from __future__ import annotations

import sys
import time

from vmaforensics.image.open import open_image
from vmaforensics.kernel.find import find_kernel
from vmaforensics.views.gather import gather_views

BATCH = 1 << 10  # tables of the lowest level read at once


def main(path: str) -> None:
    """Walk the tables under every pgd, as the view of page tables does."""
    kernel = find_kernel(open_image(path))
    mms = gather_views(kernel, (), ()).mms
    roots, _, mapped = kernel.space.translate(mms.pgd[mms.ok])
    best, entries = float("inf"), 0
    for turn in range(4):
        started = time.perf_counter()
        found = kernel.arch.walk_user(kernel.memory, roots[mapped])
        entries = len(found.leaves)
        for low in range(0, len(found.lowest), BATCH):
            lowest = kernel.arch.read_lowest(kernel.memory, found.lowest.take(slice(low, low + BATCH)))
            entries += len(lowest.leaves)
        if turn:
            best = min(best, time.perf_counter() - started)
    print(f"{entries} entries, {best:.4f} s")


if __name__ == "__main__":
    main(sys.argv[1])
