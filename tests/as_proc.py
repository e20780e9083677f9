"""Is what an image holds what its guest's own /proc said? A row for the tables of kernels.

    python -m tests.as_proc build/images/debian-6.1.elf…
    python -m tests.as_proc build/images/built-6.12-plain.elf --symbols build/images/built-6.12-plain.vmlinux

The record lies beside the image (``NAME.truth.tar``). Exit code 0 if ``maps`` and ``smaps`` are the same bytes for
every process and thread that the guest recorded, but the one that wrote the record, and nothing is found above low.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from vmaforensics.analysis import analyse_image
from vmaforensics.image.open import open_image
from vmaforensics.proc.maps import maps_lines
from vmaforensics.proc.smaps import SmapsPrinter
from vmaforensics.report.document.not_assessed import not_assessed

if TYPE_CHECKING:
    from vmaforensics.analysis import Analysis

SHOWN = ("critical", "high", "medium")
MOVING = b"Referenced:"  # a page may be used between its line of the record and the dump
AREA = re.compile(rb"(?<=\n)(?=[0-9a-f]{8,16}-[0-9a-f]{8,16} )")
LABEL = re.compile(rb"(?m)^([A-Za-z]\w*:)")
MOST_MOVED = 2  # lines
MOST_TOLD = 8  # differences of an image


def recorded(path: Path) -> tuple[dict[tuple[int, str], bytes], set[int]]:
    """``maps`` and ``smaps`` by process or thread, without those of the process that wrote the record; and which are
    processes."""
    found: dict[tuple[int, str], bytes] = {}
    owner: dict[int, int] = {}
    capturing = 0
    with tarfile.open(path) as tar:
        for entry in tar:
            name = entry.name.removeprefix("./")
            hit = re.fullmatch(r"proc/(\d+)/(?:task/(\d+)/)?(maps|smaps)", name)
            stream = tar.extractfile(entry) if hit or name == "capturing" else None
            if stream is None:
                continue
            if hit is None:
                capturing = int(stream.read())
                continue
            pid = int(hit[2] or hit[1])
            found[pid, hit[3]] = stream.read()
            owner[pid] = int(hit[1])
    kept = {(pid, kind): data for (pid, kind), data in found.items() if owner[pid] != capturing}
    return kept, {pid for pid, process in owner.items() if pid == process}


def differences(got: bytes, expected: bytes) -> list[tuple[bytes, bytes]]:
    """Pairs of lines that differ; of what is missing on a side, with nothing on it."""
    ours, theirs = got.splitlines(), expected.splitlines()
    longer = max(len(ours), len(theirs))
    ours += [b""] * (longer - len(ours))
    theirs += [b""] * (longer - len(theirs))
    return [(mine, other) for mine, other in zip(ours, theirs, strict=True) if mine != other]


def without_what_is_left_out(got: bytes, expected: bytes, labels: set[bytes]) -> bytes:
    """``expected`` without the lines of each VMA that ``got`` lacks: what an image does not tell is left out, not
    wrong. Their labels are added to ``labels``."""
    ours, theirs = AREA.split(got), AREA.split(expected)
    if len(ours) != len(theirs):
        return expected
    kept = []
    for mine, other in zip(ours, theirs, strict=True):
        lacks = {label for label in LABEL.findall(other) if label not in mine}
        labels |= lacks
        lines = other.splitlines(keepends=True)
        kept += [line for line in lines if not lacks or line.split(b":", 1)[0] + b":" not in lacks]
    return b"".join(kept)


def compare(analysis: Analysis, truth: dict[tuple[int, str], bytes]) -> dict[str, list[str]]:
    """What differs, in words, by kind of file."""
    tasks = analysis.views.tasks
    mms = dict(zip(tasks.pid.tolist(), tasks.mm.tolist(), strict=True))
    smaps = SmapsPrinter(analysis.kernel, analysis.views)
    wrong: dict[str, list[str]] = {"maps": [], "smaps": [], "moved": [], "left out": []}
    left_out: set[bytes] = set()
    for (pid, kind), expected in truth.items():
        if pid not in mms:
            wrong[kind].append(f"{pid}: no such task in the image")
            continue
        mm = mms[pid]
        lines = maps_lines(analysis.kernel, analysis.views, mm) if kind == "maps" else smaps.lines(mm)
        got = b"".join(lines) if mm else b""
        told = without_what_is_left_out(got, expected, left_out) if kind == "smaps" else expected
        for ours, theirs in differences(got, told):
            moved = ours.startswith(MOVING) and theirs.startswith(MOVING)
            wrong["moved" if moved else kind].append(f"{pid}: {ours!r}, the guest: {theirs!r}")
    if len(wrong["moved"]) > MOST_MOVED:
        wrong["smaps"] += wrong["moved"]
    wrong["left out"] = sorted(label.decode() for label in left_out)
    return wrong


def look_at(path: Path, symbols: list[Path]) -> bool:
    """Print the row of an image, and what is wrong with it; was nothing?"""
    began = time.monotonic()
    analysis = analyse_image(dataclasses.replace(open_image([path]), symbols=symbols or None))
    truth, owners = recorded(path.parent / f"{path.name.removesuffix('.elf')}.truth.tar")
    wrong = compare(analysis, truth)
    processes = {pid for pid, kind in truth if kind == "maps" and pid in owners}
    lines = sum(truth[pid, "maps"].count(b"\n") for pid in processes)
    serious = [finding for finding in analysis.findings if finding.severity.value in SHOWN]
    row = (
        f"| {analysis.kernel.identity.release} | {path.stem} | {len(processes)} | {lines:,} "
        f"| maps: {len(wrong['maps'])} differ | smaps: {len(wrong['smaps'])} differ, {len(wrong['moved'])} moved "
        f"| above low: {len(serious)} | {time.monotonic() - began:.0f} s |"
    )
    say = [row]
    say += [f"    left out of smaps: {label}" for label in wrong["left out"]]
    for kind in ("maps", "smaps"):
        say += [f"    {kind}: {text}" for text in wrong[kind][:MOST_TOLD]]
        if len(wrong[kind]) > MOST_TOLD:
            kinds = Counter(re.sub(r"\d+: b'(\w*).*", r"\1", text) for text in wrong[kind])
            say.append(f"    {kind}: … {dict(kinds.most_common(MOST_TOLD))}")
    say += [f"    {hit.severity.value} {hit.rule.id} pid {hit.pid}: {hit.title}" for hit in serious[:MOST_TOLD]]
    say += [f"    not assessed: {row.what}: {row.why}" for row in not_assessed(analysis)[:MOST_TOLD]]
    sys.stdout.write("\n".join(say) + "\n")
    sys.stdout.flush()
    return not (wrong["maps"] or wrong["smaps"] or serious)


def main() -> int:
    """Look at the images that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument("--symbols", type=Path, action="append", default=[], help="as of the program")
    options = parser.parse_args()
    right = [look_at(path, options.symbols) for path in options.images]
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
