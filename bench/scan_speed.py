"""Measures `scan` beside yara-x alone on a file of the same bytes: python bench/scan_speed.py IMAGE…

Both use one core; what counts is CPU time. The rules are made up: so many, each with texts, bytes and an expression of
which hardly any matches, as in a collection of rules; the fewest have one plain text each. The table goes to
bench/scan_speed.md, and from there into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import io
import random
import string
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yara_x

from vmaforensics.compare.known_regions import known_regions
from vmaforensics.image.joined import join
from vmaforensics.image.open import open_image
from vmaforensics.kernel.find import find_kernel
from vmaforensics.progress import unheard
from vmaforensics.scan.places import file_pages, frame_pages_of, mapped_pages_of, region_pages_of, taskless_pages
from vmaforensics.scan.plan import make_plan
from vmaforensics.scan.pool import scan_plan
from vmaforensics.scan.rules import compile_rules
from vmaforensics.scan.worker import Settings
from vmaforensics.views.gather import gather_views

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.scan.plan import PlanPages, Stretches

KEPT = Path(__file__).with_name("scan_speed.md")
TARGET = 0.6
PLAIN = 5  # rules; so few have a plain text each
_HEAD = """\
## scan, beside yara-x alone

What `scan` reads of an image, read and scanned by it, and scanned by yara-x in a file that holds the same bytes one
after the other; CPU time of one core, the best of {runs} runs. The rules are made up (`bench/scan_speed.py`); {plain}
are of one plain text each: with those yara-x is as fast as memory, and copying the bytes out of the image takes as
long again. Long stretches of zeros, of which a machine that was not yet full has many, are neither copied nor scanned
twice: "zeros" is their share. bench-touched-1g is memory that a process filled.

| image | rules | bytes | zeros | `scan` | yara-x alone | share |
|---|---|---|---|---|---|---|"""


def made_up(count: int) -> str:
    """So many rules, the same ones each time."""
    chance = random.Random(1)

    def word(length: int) -> str:
        return "".join(chance.choice(string.ascii_lowercase) for _ in range(length))

    if count <= PLAIN:
        return "\n".join(f'rule r{at} {{ strings: $a = "{word(12)}" condition: $a }}' for at in range(count))
    rules = []
    for number in range(count):
        octets = " ".join(f"{chance.randrange(256):02x}" for _ in range(10))
        rules.append(
            f'rule r{number} {{ strings: $a = "{word(8)}" ascii wide $b = "{word(10)}" nocase $c = {{ {octets} }} '
            f"$d = /{word(4)}[0-9]{{2,6}}{word(3)}/ condition: 2 of them }}"
        )
    return "\n".join(rules)


def measure(path: Path, count: int, runs: int) -> str:
    """A row of the table."""
    image = open_image([path])
    kernel = find_kernel(image)
    views = gather_views(kernel, image.cpus)
    mapped = mapped_pages_of(kernel, views, known_regions(views))
    parts = [
        file_pages(kernel, views),
        region_pages_of(kernel, mapped),
        taskless_pages(kernel, views),
        frame_pages_of(views, mapped),
    ]
    stretches, pages, _ = make_plan(parts)
    total = len(pages) * kernel.arch.page_size
    zeros = _zero_bytes(kernel, stretches, pages) / total
    with tempfile.TemporaryDirectory() as folder:
        source, flat = Path(folder) / "rules.yar", Path(folder) / "bytes"
        source.write_text(made_up(count))
        rules = compile_rules([source]).serialized
        with flat.open("wb") as stream:
            for low in range(0, len(pages), 1 << 12):
                part = pages.take(slice(low, low + (1 << 12)))
                data, _ = kernel.memory.gather(part.pfn << np.uint64(kernel.arch.page_shift), kernel.arch.page_size)
                data[~part.held] = 0
                stream.write(data.data)
        ours, alone = [], []
        for _ in range(runs):
            began = time.process_time()
            for _ in scan_plan(kernel, stretches, pages, Settings(rules=rules), 1, unheard):
                pass
            ours.append(time.process_time() - began)
            scanner = yara_x.Scanner(yara_x.Rules.deserialize_from(io.BytesIO(rules)))
            scanner.max_matches_per_pattern(100)
            began = time.process_time()
            scanner.scan_file(str(flat))
            alone.append(time.process_time() - began)
    mine, theirs = total / min(ours) / 1e6, total / min(alone) / 1e6
    share = mine / theirs
    kept = "" if share >= TARGET else f" (target {TARGET:.0%})"
    speeds = f"{mine:,.0f} MB/s | {theirs:,.0f} MB/s | {share:.0%}{kept}"
    return f"| {path.stem} | {count:,} | {total / 1e6:,.0f} MB | {zeros:.0%} | {speeds} |"


def _zero_bytes(kernel: Kernel, stretches: Stretches, pages: PlanPages) -> int:
    """Bytes of the stretches that are known to be zeros without being scanned."""
    pas = np.where(pages.held, kernel.arch.bytes_of(pages.pfn), np.uint64(1 << 63))
    bounds = np.stack([stretches.first, stretches.first + stretches.count], axis=1)
    return sum(len(raw) for raw, _, zero in join(kernel.memory, pas, kernel.arch.page_size, bounds) if zero)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description="Measure scan beside yara-x alone.")
    parser.add_argument("image", nargs="+", type=Path)
    parser.add_argument("--rules", type=int, nargs="+", default=[PLAIN, 100, 400, 2000], help="how many")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    lines = [_HEAD.format(runs=args.runs, plain=PLAIN)]
    for path in args.image:
        for count in args.rules:
            lines.append(measure(path, count, args.runs))
            print(lines[-1], flush=True)
    KEPT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
