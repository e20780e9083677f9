"""Measures the commands as whole processes: python bench/run.py [IMAGE…]. See docs/benchmarks.md for results.

    make bench                                  our own commands, and volatility3 with our plugin
    make bench BENCH_ARGS='--quick maps'        one run of what has "maps" in its name; nothing is kept
    python bench/run.py --update --isf DIR --drgn-python PYTHON --vmlinux FILE

DIR holds linux/*.json (of `vmaforensics isf`, or dwarf2json) for volatility3's own plugin, which takes
minutes; FILE is the vmlinux with debug information of the kernel of bench-2g, and PYTHON can import drgn.
Both are of one kernel: other images are measured without them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from contenders import Contender, drgn, earlier_commands, our_commands, volatility
from measure import BenchError, Result, run_once
from page import LARGE_IMAGE, TARGET_COMMAND, TARGET_IMAGE, TOUCHED_IMAGE, page, span, target
from store import Subject, busy, load, machine, save, subject

if TYPE_CHECKING:
    from collections.abc import Sequence

TOUCHED = tuple(f"bench-touched-{size}g" for size in (1, 2, 4, 8))
SHARED = ("bench-shared-40", "bench-shared-400")
NAMES = ("bench-2g", "bench-2g-5.10", "bench-2g-x2", "bench-2g-x4", *TOUCHED, TOUCHED_IMAGE, *SHARED, LARGE_IMAGE)
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Measure time and memory of whole processes.")
    parser.add_argument("only", nargs="*", metavar="WORD", help="only commands with this in their name")
    parser.add_argument("--images", type=Path, default=Path("build/images"), help="folder of the images")
    parser.add_argument("--image", action="append", metavar="NAME", help="only this image; may be repeated")
    parser.add_argument("--runs", type=int, default=5, help="runs after the warm-up; default: 5")
    parser.add_argument("--quick", action="store_true", help="one run after the warm-up; results are not kept")
    parser.add_argument("--update", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--isf", type=Path, metavar="DIR", help="symbols for volatility3's linux.proc.Maps")
    parser.add_argument("--vmlinux", type=Path, metavar="FILE", help="vmlinux with debug information, for drgn")
    parser.add_argument("--before", type=Path, metavar="DIR", help="bin folder of another version, measured too")
    parser.add_argument("--drgn-python", type=Path, metavar="PYTHON", help="a Python that can import drgn")
    return parser.parse_args(argv)


def measure(contender: Contender, measured: Subject, runs: int, scratch: Path) -> Result:
    """Run a command on an image: a warm-up that does not count, then the runs."""
    output = scratch / "output"
    before = os.getloadavg()[0]
    if contender.prepare:
        contender.prepare(measured.path, output)
    elif not contender.once:
        run_once(contender.command(measured.path), output, contender.timeout)
    found = tuple(
        run_once(contender.command(measured.path), output, contender.timeout)
        for _ in range(1 if contender.once else runs)
    )
    entries, walk = contender.entries(output) if contender.entries else (None, None)
    return Result(
        runs=found,
        entries=entries,
        walk=walk,
        areas=contender.areas(output) if contender.areas else None,
        tool=contender.tool,
        version=contender.version,
        does=contender.does,
        date=datetime.now(UTC).date().isoformat(),
        load=round(before, 1),
        of_case=contender.of_case,
    )


def line(name: str, measured: Subject, result: Result, before: Result | None) -> str:
    """One result, and its change since the last run."""
    text = f"  {name:24}{span(result):28}CPU {result.cpu:6.2f} s  {result.peak / 1e6:5.0f} MB"
    text += f"  {measured.areas / result.wall:9,.0f} areas/s"
    if before:
        text += f"  time {result.wall / before.wall - 1:+.0%}, memory {result.peak / before.peak - 1:+.0%}"
    if result.areas not in (None, measured.areas):
        text += f"  PRINTED {result.areas} AREAS OF {measured.areas}"
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep."""
    options = arguments(argv)
    here = machine()
    results = load(here)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        scratch = Path(folder)
        (scratch / "cache").mkdir()
        try:
            contenders = all_contenders(options, scratch)
            subjects = [subject(options.images, name) for name in options.image or present(options.images)]
        except BenchError as error:
            print(error, file=sys.stderr)
            return 1
        for measured in subjects:
            print(f"{measured.name}: {measured.release}, {measured.processes} processes, {measured.areas} areas")
            kept = results.setdefault(measured.key, {})
            for name, contender in contenders.items():
                if (options.only and not any(word in name for word in options.only)) or (
                    not contender.ours and measured.name != TARGET_IMAGE
                ):
                    continue
                try:
                    found = measure(contender, measured, 1 if options.quick else options.runs, scratch)
                except BenchError as error:
                    print(f"  {name:24}{error}", file=sys.stderr)
                    failed = 1
                    continue
                print(line(name, measured, found, kept.get(name)), flush=True)
                if measured.name == TARGET_IMAGE and name == TARGET_COMMAND:
                    print(f"  {'':24}{target(found)}")
                if busy(here, found):
                    print(f"  {'':24}the machine is busy (load {found.load}): only CPU time says much")
                kept[name] = found
    if not options.quick:
        save(here, results)
    if options.update:
        known = [subject(options.images, name) for name in present(options.images)]
        PAGE.write_text(page(here, known, results))
    return failed


def present(folder: Path) -> list[str]:
    """The images there are, and always bench-2g."""
    return [name for name in NAMES if name == TARGET_IMAGE or (folder / f"{name}.json").exists()]


def all_contenders(options: argparse.Namespace, scratch: Path) -> dict[str, Contender]:
    """Every command that can be run here, by name."""
    bin_folder = Path(sys.executable).parent  # not resolved: a virtual environment's python is a link
    found = [
        *our_commands(bin_folder, scratch),
        *earlier_commands(options.before, scratch),
        *volatility(bin_folder, scratch, options.isf),
        *drgn(options.drgn_python, options.vmlinux),
    ]
    return {item.name: item for item in found}


if __name__ == "__main__":
    sys.exit(main())
