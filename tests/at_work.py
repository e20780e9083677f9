"""What is said of images of machines at work: false findings, and the labelled edits that were found.

    python -m tests.at_work build/images                    every image of samples/recipe/make_work.py in a folder
    python -m tests.at_work build/images --only 6.1 --only live --json results.json
    python -m tests.at_work results.json more.json --update the tables again, as docs/at-work.md

Each image is reported on by a process of its own. A finding of medium or above is *false* if none of the image's
labelled edits accounts for it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vmaforensics.image.open import open_image

if TYPE_CHECKING:
    from vmaforensics.image.memory import PhysicalMemory

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "at-work.md"
INTRODUCTION = """\
# What is found in images of machines at work

Made by `python -m tests.at_work build/images --update` of images that `samples/recipe/make_work.py` makes; do not edit
it by hand, but for *Runs after that*. What these guests do, and how the images and the labelled edits in them are made,
is told in `samples/recipe/README.md`.

*Atomic*: the guest was stopped at a moment of chance and dumped. *Live 20 s*: read while it ran, ascending, in
20 seconds. *LiME*: read by LiME in the guest. *kcore*: read there through `/proc/kcore`, as AVML does. *Mixed 10 s*:
pages of two atomic images that are 10 seconds apart.

A finding of medium or above is *false* if none of the image's labelled edits accounts for it: it names neither what
was edited nor, in a child that inherited it, the same range, nor the page that an edit used. An edit is *found* by a
finding of medium or above that names the edited process and, where both have one, a range that overlaps. An
edit that the kernel has undone before the image was made, as where a page went to swap, is left out. Times are of the
whole command on a machine that did other things too. Why edits in processes that run on are missed in one acquisition,
and what a second one tells, is in [smear.md](smear.md).
"""
LATER = "## Runs after that\n"  # from there on the page is written by hand
COUNTED = ("critical", "high", "medium")
FRAME = ((1 << 52) - 1) & -4096
SETTLED = ("PTE", "vm_area_struct.vm_flags", "vm_area_struct.vm_end")  # words that stay where they are
PRESENT = 1  # in a page-table entry
MOST_MISSED = 40  # kinds that are told
MOST_FRAMES = 3  # that a finding about pages may name besides one that was edited
READERS = {"lime": "LiME", "kcore": "kcore"}
MOST_PARENTS = 64  # of a node of a tree


# The command, which says at last how many seconds of the CPU and how many KiB it took.
MEASURED = """
import resource, sys
from vmaforensics.cli.main import main
code = main(sys.argv[1:])
took = resource.getrusage(resource.RUSAGE_SELF)
print(took.ru_utime + took.ru_stime, took.ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def overlaps(low: int, high: int, start: int | None, end: int | None) -> bool:
    """Does a range overlap another, which may be missing?"""
    return start is not None and end is not None and start < high and low < end


def number(text: str | None) -> int | None:
    """An address of a document."""
    return None if text is None else int(text, 16)


def hits(finding: dict[str, Any], edit: dict[str, Any]) -> bool:
    """Does a finding name the edited process and, where both have one, a range that overlaps?"""
    if finding["pid"] != edit["pid"]:
        return False
    start, end = number(finding["start"]), number(finding["end"])
    low, high = int(edit["start"], 16), int(edit["end"], 16)
    return high == 0 or start is None or overlaps(low, high, start, end)


def follows(finding: dict[str, Any], edit: dict[str, Any]) -> bool:
    """Is a finding about what an edit did besides: to a child, to the page it used, to the list it cut?"""
    start, end = number(finding["start"]), number(finding["end"])
    low, high = (int(word, 16) for word in edit["decoys"])
    areas = (low, high), (int(edit["start"], 16), int(edit["end"], 16))
    if finding["pid"] == edit["pid"]:
        return any(area[0] <= (start or 0) and (end or 0) <= area[1] for area in areas)
    if not edit["resting"] and start is not None and end is not None:  # what was edited is inherited
        return any(area[0] <= start and end <= area[1] for area in areas)
    if finding["pid"]:
        return False
    said = json.dumps(finding["evidence"])
    frames = {
        (int(word[side], 16) & FRAME) >> 12
        for word in edit["words"]
        if word["what"] == "PTE"
        for side in ("before", "after")
    }
    named = any(f"page frame {frame:#x} " in said for frame in frames if frame)
    return named and said.count("page frame") <= MOST_FRAMES


def judge(manifest: dict[str, Any], document: dict[str, Any]) -> tuple[list[list[str]], list[dict[str, Any]]]:
    """(false findings as severity, rule and title; every edit with the rules that found it)."""
    findings = [row for row in document["findings"] if row["severity"] in COUNTED]
    edits = manifest.get("edits", [])
    false = [
        [row["severity"], row["rule"], f"pid {row['pid']}: {row['title']}"]
        for row in findings
        if not any(hits(row, edit) or follows(row, edit) for edit in edits)
    ]
    found = []
    for edit in edits:
        rules = sorted({row["rule"] for row in findings if hits(row, edit)})
        found.append({"edit": edit["edit"], "resting": edit["resting"], "comm": edit["comm"], "rules": rules})
    return false, found


def hangs(word: dict[str, Any], memory: PhysicalMemory) -> bool:
    """Is the node that a word of a tree led to in the tree again?

    Where a copy of a VMA is put behind one that was cut out (fork, vma_interval_tree_insert_after), the balancing of
    the tree hangs both into it: __rb_change_child (include/linux/rbtree_augmented.h) does not ask whether the parent
    leads to what it exchanges.
    """
    direct_map = int(word["address"], 16) - int(word["physical"], 16)
    node = int(word["before"], 16)
    for _ in range(MOST_PARENTS):
        data, ok = memory.gather(np.array([node - direct_map], np.uint64), 8)
        parent = int.from_bytes(data[0].tobytes(), "little") & ~3  # rb_node.__rb_parent_color
        if not ok[0] or parent == 0:
            return bool(ok[0])
        data, ok = memory.gather(np.array([parent - direct_map], np.uint64), 24)
        if not ok[0] or node not in data[0].view("<u8")[1:].tolist():  # rb_right, rb_left
            return False
        node = parent
    return False


def held(edit: dict[str, Any], memory: PhysicalMemory) -> bool:
    """Is what an edit changed still as it made it? Pages are reclaimed, and taken back by the kernel, under an edit."""
    for word in edit["words"]:
        if word["what"].startswith("rb pointer") and hangs(word, memory):
            return False
        if word["what"] not in SETTLED:
            continue
        before, after = int(word["before"], 16), int(word["after"], 16)
        data, ok = memory.gather(np.array([int(word["physical"], 16)], np.uint64), word["size"])
        changed = (before ^ after) | (PRESENT if word["what"] == "PTE" else 0)
        if ok[0] and (int.from_bytes(data[0].tobytes(), "little") ^ after) & changed:
            return False
    return True


def examine(path: Path, seconds: float) -> dict[str, Any]:
    """Report on an image and judge what is said."""
    manifest = json.loads(path.read_bytes())
    image = next(found for end in ("elf", "kdump", "lime", "raw") if (found := path.with_suffix(f".{end}")).exists())
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [sys.executable, "-c", MEASURED, "report", str(image), "--format", "json", "--progress", "never"]
        began = time.monotonic()
        with Path(os.devnull).open("wb") as nothing:
            process = subprocess.Popen([*command, "-o", out.name, "--force"], stdout=nothing, stderr=subprocess.PIPE)
        said, error = b"", ""
        try:
            _, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            error = f"not finished in {seconds:g} s"
        took = time.monotonic() - began
        text = Path(out.name).read_bytes()
    seen = {
        "image": path.stem,
        "kernel": manifest["kernel"],
        "load": manifest["load"],
        "method": method(manifest),
        "cpus": manifest["cpus"],
        "seconds": round(took, 2),
        "cpu": 0.0,
        "mebibytes": 0,
        "twin": Path(manifest.get("twin", "")).stem,
        "error": error,
        "false": [],
        "edits": [],
    }
    if (words := said.split()[-2:]) and not error:
        seen["cpu"], seen["mebibytes"] = float(words[0]), int(words[1]) >> 10
    memory = open_image(image).memory
    manifest["edits"] = [edit for edit in manifest.get("edits", []) if held(edit, memory)]
    if text:
        seen["false"], seen["edits"] = judge(manifest, json.loads(text))
    elif not error:
        seen["error"] = said.decode("utf-8", "replace").strip().splitlines()[-1:] or "nothing was written"
    return seen


def method(manifest: dict[str, Any]) -> str:
    """How an image was made, in a word."""
    if manifest["method"] == "slices":
        return f"live {manifest['live']['seconds']:.0f} s"
    if manifest["method"] in READERS:
        return READERS[manifest["method"]]
    if manifest["method"] == "mixed":
        return f"mixed {manifest['apart']:.0f} s"
    return "atomic"


def table(title: str, heads: list[str], rows: list[list[object]]) -> str:
    """A table of Markdown."""
    lines = [f"## {title}", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([*lines, ""])


def grouped(seen: list[dict[str, Any]], *keys: str) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """Images by what they have in common, in order."""
    groups = defaultdict(list)
    for one in seen:
        groups[tuple(one[key] for key in keys)].append(one)
    return dict(sorted(groups.items(), key=lambda item: [(len(word), word) for word in item[0]]))


def of_severity(images: list[dict[str, Any]], *severities: str) -> int:
    """How many false findings."""
    return sum(false[0] in severities for image in images for false in image["false"])


def summary(seen: list[dict[str, Any]], *keys: str) -> str:
    """False findings and time by what images have in common."""
    rows: list[list[object]] = []
    for group, images in grouped(seen, *keys).items():
        bad = sum(bool(image["false"] or image["error"]) for image in images)
        times = sorted(image["seconds"] for image in images)
        counts = [of_severity(images, "critical", "high"), of_severity(images, "medium")]
        rows.append([*group, len(images), bad, *counts, times[len(times) // 2], times[-1]])
    heads = [*keys, "images", "with a false one", "high", "medium", "s median", "s max"]
    return table(f"False findings by {' and '.join(keys)}", heads, rows)


def by_rule(seen: list[dict[str, Any]]) -> str:
    """False findings by rule: of high and of medium, and in how many images."""
    kinds = list(grouped(seen, "kernel", "method"))
    rows = []
    for rule in sorted({false[1] for image in seen for false in image["false"]}):
        row: list[object] = [rule]
        for images in grouped(seen, "kernel", "method").values():
            mine = Counter(false[0] for image in images for false in image["false"] if false[1] == rule)
            count = sum(any(false[1] == rule for false in image["false"]) for image in images)
            row.append(f"{mine['high'] + mine['critical']}+{mine['medium']} in {count}" if count else "")
        rows.append(row)
    return table("False findings by rule: high + medium in images", ["rule", *(" ".join(kind) for kind in kinds)], rows)


def recall(seen: list[dict[str, Any]]) -> str:
    """Labelled edits that were found, by kind."""
    found: dict[tuple[str, bool, str], list[bool]] = defaultdict(list)
    for image in seen:
        for edit in image["edits"]:
            for kind in (edit["edit"], "all"):
                found[kind, edit["resting"], image["method"]].append(bool(edit["rules"]))
    methods = sorted({key[2] for key in found}, key=lambda name: (len(name), name))
    rows: list[list[object]] = []
    for kind in sorted({key[0] for key in found} - {"all"}) + ["all"] * bool(found):
        for resting in (True, False):
            cells = [found.get((kind, resting, name), []) for name in methods]
            rows.append([kind, "resting" if resting else "running", *(f"{sum(cell)}/{len(cell)}" for cell in cells)])
    return table("Labelled edits found", ["edit", "process", *methods], rows)


def against_twins(seen: list[dict[str, Any]]) -> str:
    """What images that were read while the machine ran cost, beside those of the same machine right after it."""
    of_name = {image["image"]: image for image in seen}
    rows: list[list[object]] = []
    for image in seen:
        twin = of_name.get(image.get("twin", ""))
        if twin is not None and image["cpu"] and twin["cpu"]:
            ratios = [round(image[what] / twin[what], 2) for what in ("cpu", "mebibytes")]
            both = [f"{image[what]:.0f} / {twin[what]:.0f}" for what in ("cpu", "mebibytes")]
            rows.append([image["image"], image["load"], image["method"], *both, *ratios])
    heads = ["image", "load", "method", "s of the CPU", "MiB", "times the CPU", "times the memory"]
    return table("Live images and their twins", heads, rows)


def page(seen: list[dict[str, Any]]) -> str:
    """All tables, and what failed."""
    parts = [summary(seen, "kernel", "method"), summary(seen, "load", "method"), by_rule(seen), recall(seen)]
    parts.append(against_twins(seen))
    errors = [f"* {image['image']}: {image['error']}" for image in seen if image["error"]]
    missed = Counter(
        f"{edit['edit']} in {'resting' if edit['resting'] else edit['comm']}, {image['kernel']} {image['method']}"
        for image in seen
        for edit in image["edits"]
        if not edit["rules"]
    )
    return "\n".join(
        [*parts, *errors, *(f"* missed {count} times: {what}" for what, count in missed.most_common(MOST_MISSED))]
    )


def main() -> int:
    """Report on the images and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("where", type=Path, nargs="+", help="folders of images, and results of runs before")
    parser.add_argument("--only", action="append", default=[], help="images with all of these in their names")
    parser.add_argument("--json", type=Path, help="keep the results")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=600, help="seconds for an image")
    parser.add_argument("--update", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    parser.add_argument("-v", action="store_true", help="print every false finding")
    options = parser.parse_args()
    seen = []
    for where in options.where:
        if where.is_file():
            seen += json.loads(where.read_bytes())
            continue
        paths = [
            path for path in sorted(where.glob("*-work*-*.json")) if all(word in path.name for word in options.only)
        ]
        with ThreadPoolExecutor(options.jobs) as pool:
            seen += pool.map(lambda path: examine(path, options.timeout), paths)
    if options.json:
        options.json.write_text(json.dumps(seen, indent=1))
    if options.v:
        for image in seen:
            sys.stdout.writelines(f"{image['image']}: {' '.join(false)}\n" for false in image["false"])
    if options.update:
        _, heading, later = PAGE.read_text().partition(LATER)
        PAGE.write_text(f"{INTRODUCTION}\n{page(seen)}\n{heading and chr(10)}{heading}{later}")
    else:
        sys.stdout.write(f"{page(seen)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
