"""Mix the pages of two atomic images of one guest: python3 mix_pages.py EARLY LATE --out FILE.

What an acquisition that lasts does to memory, at its crudest: up to some page everything is of the early image, and
behind it of the late one; or pages of each by chance. Written as LiME does; which page is of which stands beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from slices import LIME_HEADER, LIME_MAGIC, LIME_VERSION, PAGE

from vmaforensics.image.open import open_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vmaforensics.image.memory import PhysicalMemory


def cut(pages: int, part: float) -> NDArray[np.bool_]:
    """Which pages are of the late image if reading went through all of memory, and ``part`` of it was read before."""
    return np.arange(pages) >= round(pages * part)


def sprinkled(pages: int, part: float, run: int, seed: int) -> NDArray[np.bool_]:
    """Which pages are of the late image if stretches of ``run`` pages are of either by chance: ``part``, early."""
    chance = np.random.default_rng(seed)
    stretches = chance.random(-(-pages // run)) >= part
    return np.repeat(stretches, run)[:pages]


def stretches(late: NDArray[np.bool_]) -> list[list[int]]:
    """[first page, page behind the last, 0 or 1: late] of each stretch of pages of one image."""
    edges = [0, *(np.flatnonzero(late[1:] != late[:-1]) + 1).tolist(), len(late)]
    return [[low, high, int(late[low])] for low, high in pairwise(edges) if high > low]


def mix(early: PhysicalMemory, late: PhysicalMemory, of_late: NDArray[np.bool_], path: Path) -> None:
    """Write the pages that both images have, each of the one chosen."""
    pages = np.arange(0, len(of_late) * PAGE, PAGE, dtype=np.uint64)
    first, here = early.gather(pages, PAGE)
    second, there = late.gather(pages, PAGE)
    both = here & there
    edges = np.flatnonzero(np.diff(np.concatenate([[False], both, [False]]).astype(np.int8)))
    with path.open("wb") as out:
        for low, high in edges.reshape(-1, 2).tolist():
            out.write(LIME_HEADER.pack(LIME_MAGIC, LIME_VERSION, low * PAGE, high * PAGE - 1, 0))
            out.write(np.where(of_late[low:high, None], second[low:high], first[low:high]).tobytes())


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Mix the pages of two atomic images of one guest.")
    parser.add_argument("early", type=Path)
    parser.add_argument("late", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", type=float, default=0.5, help="of the pages that are of the early image")
    parser.add_argument("--run", type=int, default=0, help="pages in a stretch, by chance; default: one cut")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Mix, and write the manifest."""
    options = arguments(argv)
    manifests = [json.loads(path.with_suffix(".json").read_bytes()) for path in (options.early, options.late)]
    pages = (manifests[0]["memory_mib"] << 20) // PAGE
    late = sprinkled(pages, options.part, options.run, options.seed) if options.run else cut(pages, options.part)
    early, after = (open_image(path).memory for path in (options.early, options.late))
    mix(early, after, late, options.out)
    manifest = manifests[1] | {
        "method": "mixed",
        "early": options.early.name,
        "late": options.late.name,
        "apart": round((manifests[1]["jiffies"] - manifests[0]["jiffies"]) / HZ, 2),
        "stretches": stretches(late),
    }
    options.out.with_suffix(".json").write_text(json.dumps(manifest) + "\n")
    return 0


HZ = 250  # of Debian's kernels


if __name__ == "__main__":
    sys.exit(main())
