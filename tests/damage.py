"""Random damage: what an image that was hit at random costs, and what it must never cost.

    python tests/damage.py samples/debian-6.12/image.kdump --other samples/debian-6.1/image.kdump --trials 1000
    python tests/damage.py samples/debian-6.12/image.kdump --trials 10000 --brief --jobs 4
    python tests/damage.py samples/debian-6.12/image.kdump --first 4711 --trials 1 --show
    python tests/damage.py samples/crash-6.1-vma-file/image.kdump --crash --trials 300

A trial is a number: it says what is damaged (KINDS), how much, in which format the report is shown besides text and
JSON, and which command is run beside it. It runs in a process of its own, forked from one that has everything loaded,
with a limit on time and memory. It must end with a documented exit code and without a traceback, a warning or an
internal error; take at most three times the time and twice the memory that the undamaged image takes; have at most 200
findings; print no more than a few times as much, but for what each finding takes; and find every process that a plain
walk along ``tasks.next`` of the damaged image finds. With ``--crash`` the commands of crash cases run instead of the
report, and what they read is hit: log, stacks, unwind data. Each trial that breaks a rule is a line of JSON, and the
last line counts them all. What a limit is measured against is measured first, on the image as it is: with its pages
unpacked as they are for most trials, and as the file, for those that damage the file. With ``--brief``
three trials of four have the report in text and JSON alone; the damage of a trial stays the same.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import resource
import select
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vmaforensics.columns.runs import true_ranges
from vmaforensics.image import open as opening
from vmaforensics.image.memory import PhysicalMemory
from vmaforensics.image.overlay import Overlay
from vmaforensics.image.placed import PAGE_SHIFT, PAGE_SIZE, PageState, Placed
from vmaforensics.kernel.symbols.kallsyms import Kallsyms
from vmaforensics.progress import unheard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vmaforensics.analysis import Analysis
    from vmaforensics.image.image import Image
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.progress import Progress

TIMES_LONGER = 3.0
TIMES_LARGER = 2.0
TIMES_WORDIER = 4.0
MOST_FINDINGS = 200
MOST_WORDS = 1000
MOST_PAGES = 64
_BEGIN = 0.3  # s of the CPU until a command is loaded: part of what it takes, and not measured here
_PAGE_TEXT = 1 << 18  # bytes that any command may print more than usual
_CARD = 1 << 16  # bytes that a report may print more for each finding: evidence, a picture, 120 rows of its map
_HARD_LIMIT = 60  # s of CPU
_FILES = 10  # one trial of so many damages the file, not the memory
_SAID = 100  # trials after which the tally is said
_FULL = 4  # with --brief, one trial of so many is what all are without
DAMAGED = "damaged.image"  # the path by which commands open the damaged image


# What is damaged ------------------------------------------------------------------------------------------


class Unpacked(PhysicalMemory):
    """``base`` with its pages unpacked once, for all the processes that are forked from here on."""

    as_in_file = False

    def __init__(self, base: PhysicalMemory) -> None:
        super().__init__(base.ranges)
        self.plain = base.plain
        self.frames = held_frames(base)
        self._pages = contents(base, self.frames)
        self._states = base.page_states(np.arange(int(base.ranges[-1, 1]) >> PAGE_SHIFT, dtype=np.uint64))
        self._starts = np.zeros(len(self._states), np.int64)  # where in the pages that are held each frame lies
        self._starts[self.frames] = np.arange(len(self.frames)) * PAGE_SIZE
        self._problems = base.problems()

    def _locate(self, pas: np.ndarray, size: int) -> Placed:
        pfns = pas >> np.uint64(PAGE_SHIFT)
        starts = self._starts[np.minimum(pfns, len(self._starts) - 1)]
        offsets = np.minimum(starts + (pas & np.uint64(PAGE_SIZE - 1)).astype(np.int64), self._pages.size - size)
        return Placed(self._pages.reshape(-1), offsets, self.page_states(pfns))

    def become(self, changed: Overlay) -> None:
        """Change pages as ``changed`` has them. In a forked process, which has its own of what it writes to."""
        for pfn in changed.changed().tolist():
            page, whole = changed.gather(np.array([pfn << PAGE_SHIFT], np.uint64), PAGE_SIZE)
            self._states[pfn] = PageState.PRESENT if whole[0] else PageState.ABSENT
            self._pages[self._starts[pfn] >> PAGE_SHIFT] = page[0]

    def chunks(self, size: int = 1 << 24) -> Iterator[tuple[int, np.ndarray]]:
        step = max(size >> PAGE_SHIFT, 1)
        for first, last in true_ranges(self._states == PageState.PRESENT).tolist():
            row = int(self._starts[first]) >> PAGE_SHIFT
            for low in range(0, last - first, step):
                piece = self._pages[row + low : row + min(low + step, last - first)]
                yield (first + low) << PAGE_SHIFT, piece.reshape(-1)

    def page_states(self, pfns: np.ndarray) -> np.ndarray:
        known = pfns < np.uint64(len(self._states))
        return np.where(known, self._states[np.where(known, pfns, 0)], np.uint8(PageState.NOT_RAM))

    def problems(self) -> tuple[str, ...]:
        return self._problems


@dataclass(kw_only=True)
class Ground:
    """What trials start from: a sound image, its kernel, and where what is worth hitting lies."""

    image: Image  # of this memory
    memory: Unpacked
    kernel: Kernel
    tasks: np.ndarray  # addresses of the task_structs of the list
    named: np.ndarray  # of each, eight bytes at its number and at its name
    frames: np.ndarray  # page frames that are held
    pointers: np.ndarray  # physical addresses of words that look like kernel pointers
    spots: dict[str, np.ndarray] = field(default_factory=dict)  # physical addresses of words by what they belong to
    others: np.ndarray = field(default_factory=lambda: np.zeros((0, PAGE_SIZE), np.uint8))  # pages of another kernel


def prepare(path: Path, other: Path | None) -> Ground:
    """Analyse the sound image and look where what is."""
    from vmaforensics.analysis import analyse_image

    image = opening.open_image(path)
    memory = Unpacked(image.memory)
    analysis = analyse_image(replace(image, memory=memory))
    kernel, frames = analysis.kernel, memory.frames
    pages = contents(memory, frames)
    words = pages.view("<u8")
    high = (words >> np.uint64(47)) == np.uint64(0x1FFFF)
    row, column = np.nonzero(high & (words != np.uint64((1 << 64) - 1)))
    pointers = (frames[row] << np.uint64(PAGE_SHIFT)) + column.astype(np.uint64) * np.uint64(8)
    others = np.zeros((0, PAGE_SIZE), np.uint8)
    if other is not None:
        foreign = opening.open_image(other).memory
        others = contents(foreign, np.random.default_rng(0).choice(held_frames(foreign), 2000))
    leaders = analysis.views.tasks.take(analysis.views.tasks.leader)
    ground = Ground(
        image=analysis.image,
        memory=memory,
        kernel=kernel,
        tasks=leaders.task,
        named=_named(kernel, leaders.task),
        frames=frames,
        pointers=pointers,
        others=others,
    )
    ground.spots = _spots(ground, analysis)
    return ground


def held_frames(memory: PhysicalMemory) -> np.ndarray:
    """Page frames that the image has the contents of."""
    found = []
    for start, end in memory.ranges.tolist():
        pfns = np.arange(start >> PAGE_SHIFT, end >> PAGE_SHIFT, dtype=np.uint64)
        found.append(pfns[memory.page_states(pfns) == PageState.PRESENT])
    return np.concatenate(found)


def contents(memory: PhysicalMemory, frames: np.ndarray) -> np.ndarray:
    """The pages of these frames, ``(n, PAGE_SIZE)``."""
    data, _ = memory.gather(frames << np.uint64(PAGE_SHIFT), PAGE_SIZE)
    return np.asarray(data)


def _spots(ground: Ground, analysis: Analysis) -> dict[str, np.ndarray]:
    kernel, views = ground.kernel, analysis.views
    symbols = kernel.symbols
    spots: dict[str, np.ndarray] = {}
    start, stop = symbols.get("__start_BTF"), symbols.get("__stop_BTF")
    if start is not None and stop is not None:
        spots["btf"] = _words_in(kernel, start, stop - start)
    tables = symbols.tables if isinstance(symbols, Kallsyms) else None
    if isinstance(symbols, Kallsyms) and tables is not None:
        low = min(tables.token_table, tables.names, tables.offsets) + symbols.place
        high = max(tables.token_index + 512, tables.offsets + 4 * tables.count, tables.markers) + symbols.place
        spots["kallsyms"] = _words_in(kernel, low % (1 << 64), high - low)
        token = (tables.token_table + symbols.place) % (1 << 64)
        spots["tokens"] = _words_in(kernel, token, tables.token_index + 512 - tables.token_table)
    info = kernel.vmcoreinfo
    if info is not None and info.symbol("vmcoreinfo_data"):
        spots["vmcoreinfo"] = _words_in(kernel, info.symbol("vmcoreinfo_data") or 0, 4096)
    if kernel.root is not None:
        walk = kernel.arch.walk_kernel(kernel.memory, kernel.root)
        spots["tables"] = (walk.tables.pa[:, None] + np.arange(0, PAGE_SIZE, 8, dtype=np.uint64)).ravel()
    spots["tasks"] = _structs(kernel, views.tasks.task, kernel.sizeof("task_struct"))
    spots["mms"] = _structs(kernel, views.mms.mm, kernel.sizeof("mm_struct"))
    spots["vmas"] = _structs(kernel, views.vmas.vma, kernel.sizeof("vm_area_struct"))
    if len(views.maple_nodes.address):
        spots["nodes"] = _structs(kernel, views.maple_nodes.address, 256)
    spots |= _of_crashes(kernel, views.tasks.task)
    spots["caches"] = _structs(kernel, np.array(kernel.symbols.find("slab_caches"), np.uint64), 16)
    held = np.sort(ground.frames)
    kept = {}
    for name, words in spots.items():
        frame = words >> np.uint64(PAGE_SHIFT)
        at = np.minimum(np.searchsorted(held, frame), len(held) - 1)
        kept[name] = words[held[at] == frame]
    return {name: words for name, words in kept.items() if len(words)}


def _of_crashes(kernel: Kernel, tasks: np.ndarray) -> dict[str, np.ndarray]:
    """What crash cases read: the rings of the log, the upper ends of stacks, the unwind data."""
    symbols, spots = kernel.symbols, {}
    for name, first, last in (
        ("orc", "__start_orc_unwind", "__stop_orc_unwind"),
        ("orc-ip", "__start_orc_unwind_ip", "__stop_orc_unwind_ip"),
    ):
        start, stop = symbols.get(first), symbols.get(last)
        if start is not None and stop is not None:
            spots[name] = _words_in(kernel, start, stop - start)
    for name in ("_printk_rb_static_descs", "_printk_rb_static_infos"):
        if (start := symbols.get(name)) is not None:
            spots[name] = _words_in(kernel, start, 1 << 16)
    ring = kernel.variable("prb", 8)
    if ring is not None and kernel.has("printk_ringbuffer", "desc_ring"):
        spots["prb"] = _words_in(kernel, ring, kernel.sizeof("printk_ringbuffer"))
    stacks, _ = kernel.gather_member("task_struct", "stack", tasks)
    top = kernel.arch.kernel_pointer(stacks)
    spots["stacks"] = _structs(kernel, stacks[top] + np.uint64(3 << 12), 1 << 12)
    return spots


def _words_in(kernel: Kernel, start: int, size: int) -> np.ndarray:
    at = np.arange(start & ~7, start + size, 8, dtype=np.uint64)
    pas, _, mapped = kernel.space.translate(at)
    return pas[mapped]


def _structs(kernel: Kernel, addresses: np.ndarray, size: int) -> np.ndarray:
    at = (addresses[:, None] + np.arange(0, size, 8, dtype=np.uint64)).ravel()
    pas, _, mapped = kernel.space.translate(at)
    return pas[mapped]


class Hits:
    """Writes into a copy of the image, pages opened together."""

    def __init__(self, ground: Ground) -> None:
        self.overlay = Overlay(ground.image.memory)

    def words(self, pas: np.ndarray, values: np.ndarray) -> None:
        """Put a 64-bit value at each place."""
        self.overlay._open(np.unique(pas >> np.uint64(PAGE_SHIFT)))
        for pa, value in zip(pas.tolist(), values.tolist(), strict=True):
            self.overlay.write(pa, value.to_bytes(8, "little"))

    def pages(self, frames: np.ndarray, pages: np.ndarray) -> None:
        """Give each frame these contents."""
        for frame, page in zip(frames.tolist(), pages, strict=True):
            self.overlay.write(frame << PAGE_SHIFT, page.tobytes())

    def get(self, pas: np.ndarray) -> np.ndarray:
        """The words at these places."""
        return np.asarray(self.overlay.gather(pas, 8)[0].view("<u8")[:, 0])


def _amount(rng: np.random.Generator, most: int) -> int:
    """From 1 to ``most``, small ones as often as large ones."""
    return int(np.exp(rng.uniform(0, np.log(most + 1))))


def _values(rng: np.random.Generator, ground: Ground, old: np.ndarray) -> np.ndarray:
    """What is written over ``old``: noise, zeros, other pointers, its neighbours."""
    count = len(old)
    noise = rng.integers(0, 1 << 64, count, dtype=np.uint64)
    pointers = Hits(ground).get(rng.choice(ground.pointers, count))
    near = old + (rng.integers(-64, 65, count) * 8).astype(np.uint64)
    flipped = old ^ (np.uint64(1) << rng.integers(0, 64, count).astype(np.uint64))
    kinds = [
        noise,
        np.zeros(count, np.uint64),
        pointers,
        near,
        flipped,
        pointers + np.uint64(8),
        noise >> np.uint64(40),
    ]
    return np.choose(rng.integers(0, len(kinds), count), kinds)


def _some_words(rng: np.random.Generator, ground: Ground, count: int) -> np.ndarray:
    frames = rng.choice(ground.frames, count) << np.uint64(PAGE_SHIFT)
    return frames + rng.integers(0, PAGE_SIZE // 8, count).astype(np.uint64) * np.uint64(8)


def random_words(rng: np.random.Generator, ground: Ground) -> Overlay:
    """Words anywhere."""
    hits, at = Hits(ground), _some_words(rng, ground, _amount(rng, MOST_WORDS))
    hits.words(at, _values(rng, ground, hits.get(at)))
    return hits.overlay


def pointer_words(rng: np.random.Generator, ground: Ground) -> Overlay:
    """Words that look like pointers."""
    hits, at = Hits(ground), rng.choice(ground.pointers, _amount(rng, MOST_WORDS))
    hits.words(at, _values(rng, ground, hits.get(at)))
    return hits.overlay


def bit_flips(rng: np.random.Generator, ground: Ground) -> Overlay:
    """Single bits anywhere."""
    hits, at = Hits(ground), _some_words(rng, ground, _amount(rng, MOST_WORDS))
    hits.words(at, hits.get(at) ^ (np.uint64(1) << rng.integers(0, 64, len(at)).astype(np.uint64)))
    return hits.overlay


def spot_words(rng: np.random.Generator, ground: Ground) -> Overlay:
    """Words of one kind of structure."""
    name = str(rng.choice(sorted(ground.spots)))
    hits, at = Hits(ground), rng.choice(ground.spots[name], _amount(rng, MOST_WORDS // 4))
    hits.words(at, _values(rng, ground, hits.get(at)))
    return hits.overlay


def swapped_pages(rng: np.random.Generator, ground: Ground) -> Overlay:
    """Pairs of pages in each other's place."""
    hits = Hits(ground)
    frames = rng.choice(ground.frames, 2 * _amount(rng, MOST_PAGES // 2), replace=False)
    hits.pages(frames, contents(ground.image.memory, np.roll(frames, len(frames) // 2)))
    return hits.overlay


def zeroed_pages(rng: np.random.Generator, ground: Ground) -> Overlay:
    """Pages of zeros."""
    hits = Hits(ground)
    frames = rng.choice(ground.frames, _amount(rng, MOST_PAGES), replace=False)
    hits.pages(frames, np.zeros((len(frames), PAGE_SIZE), np.uint8))
    return hits.overlay


def dropped_pages(rng: np.random.Generator, ground: Ground) -> Overlay:
    """Pages that are not in the dump."""
    hits = Hits(ground)
    hits.overlay.drop(rng.choice(ground.frames, _amount(rng, MOST_PAGES), replace=False))
    return hits.overlay


def foreign_pages(rng: np.random.Generator, ground: Ground) -> Overlay:
    """Pages of another kernel; of this one, elsewhere, if no other was given."""
    hits = Hits(ground)
    frames = rng.choice(ground.frames, _amount(rng, MOST_PAGES), replace=False)
    if len(ground.others):
        hits.pages(frames, ground.others[rng.integers(0, len(ground.others), len(frames))])
    else:
        hits.pages(frames, contents(ground.image.memory, rng.choice(ground.frames, len(frames))))
    return hits.overlay


KINDS: tuple[Callable[[np.random.Generator, Ground], Overlay], ...] = (
    random_words,
    pointer_words,
    pointer_words,
    bit_flips,
    spot_words,
    spot_words,
    swapped_pages,
    zeroed_pages,
    dropped_pages,
    foreign_pages,
)


def damaged_file(rng: np.random.Generator, path: Path, target: Path) -> Path:
    """A copy of the file with bytes of its headers, notes and bitmaps changed."""
    raw = bytearray(path.read_bytes())
    reach = int(rng.choice([512, 8192, 65536, len(raw)]))
    for at in rng.integers(0, min(reach, len(raw)), _amount(rng, MOST_WORDS)).tolist():
        raw[at] = int(rng.integers(256))
    if rng.random() < 0.1:
        del raw[int(rng.integers(len(raw))) :]
    target.write_bytes(raw)
    return target


# One trial ------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Outcome:
    """What a trial did."""

    seed: int
    kind: str
    codes: dict[str, int] = field(default_factory=dict)  # exit code by command
    seconds: dict[str, float] = field(default_factory=dict)  # of the CPU, by command
    sizes: dict[str, int] = field(default_factory=dict)  # bytes printed, by command
    findings: int = 0
    processes: int = 0
    missed: int = 0  # processes that a plain walk finds and the analysis does not
    memory: int = 0  # KiB
    spent: float = 0.0  # s of the CPU, all of the trial
    wrong: list[str] = field(default_factory=list)  # tracebacks, warnings, internal errors
    says: str = ""


BESIDE = (
    ("crash", DAMAGED),
    ("crash", DAMAGED, "--all", "--format", "json"),
    ("log", DAMAGED),
    ("maps", DAMAGED),
    ("smaps", DAMAGED),
    ("info", DAMAGED),
    ("views", DAMAGED, "--pid", "1"),
    ("pages", DAMAGED, "--pid", "1"),
)

# Of the document of the report, which has text and JSON too.
SHOWN: tuple[tuple[str, dict[str, object]], ...] = (
    ("html", {}),
    ("csv", {}),
    ("markdown", {}),
    ("stix", {}),
    ("text", {"detail": 2}),
)


OF_CRASHES = (
    ("crash", DAMAGED),
    ("crash", DAMAGED, "--all", "--format", "json"),
    ("crash", DAMAGED, "--format", "html"),
    ("log", DAMAGED),
    ("log", DAMAGED, "--format", "json"),
    ("log", DAMAGED, "--earlier"),
)


def _named(kernel: Kernel, tasks: np.ndarray) -> np.ndarray:
    """Eight bytes at the number and at the name of each task."""
    places = [kernel.offset("task_struct", name) for name in ("pid", "comm")]
    data, _ = kernel.space.gather((tasks[:, None] + np.array(places, np.uint64)).ravel(), 8)
    return data.view("<u8").reshape(-1, 2)


def plain_walk(ground: Ground, memory: PhysicalMemory) -> set[int]:
    """The processes that ``tasks.next`` leads to in the damaged image, read as the undamaged one says.

    One that has lost its number and its name, as all of its page, is none that could be shown.
    """
    kernel, first = ground.kernel, ground.kernel.symbols.get("init_task")
    link, pid, comm = (kernel.offset("task_struct", name) for name in ("tasks.next", "pid", "comm"))
    assert first is not None

    def words(at: int, *offsets: int) -> np.ndarray | None:
        pas, _, mapped = kernel.space.translate(np.array([at + offset for offset in offsets], np.uint64))
        data, ok = memory.gather(pas, 8)
        return data.view("<u8")[:, 0] if mapped.all() and ok.all() else None

    real = dict(zip(ground.tasks.tolist(), ground.named, strict=True))
    found: set[int] = set()
    passed: set[int] = set()
    at = first
    while (after := words(at, link)) is not None:
        at = (int(after[0]) - link) % (1 << 64)
        if at not in real or at in passed:
            break
        passed.add(at)
        named = words(at, pid, comm)
        if named is not None and (named == real[at]).any():
            found.add(at)
    return found


def _command(outcome: Outcome, argv: Sequence[str]) -> None:
    """Run a command as the shell would; what it says on stderr of itself is kept."""
    from vmaforensics.cli.main import main

    name = " ".join(part for part in argv if part != DAMAGED)
    out, err = io.BytesIO(), io.StringIO()
    stream = io.TextIOWrapper(out, encoding="utf-8", write_through=True)
    began = time.process_time()
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(err):
        try:
            code = int(main([*argv, "--progress", "never", "--debug"]))
        except SystemExit as ended:
            code = int(ended.code or 0) if isinstance(ended.code, int) else 2
        except Exception:
            code = 70
            outcome.wrong.append(f"{name}: {traceback.format_exc()}")
    outcome.seconds[name] = time.process_time() - began
    outcome.codes[name] = code
    outcome.sizes[name] = len(out.getvalue())
    if b"internal error" in out.getvalue():
        outcome.wrong.append(f"{name}: says that there was an internal error")
    if code:
        outcome.says = err.getvalue().strip().rpartition("\n")[2][:500]


def run_trial(
    seed: int,
    kind: str,
    image: Image,
    ground: Ground | None,
    beside: Sequence[Sequence[str]],
    *,
    report: bool = True,
    shown: Sequence[tuple[str, dict[str, object]]] = (),
) -> Outcome:
    """The report of ``image``, in text, JSON and as ``shown``, and the commands ``beside`` it."""
    outcome = Outcome(seed=seed, kind=kind)

    def told(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
        outcome.wrong.append(f"{category.__name__}: {message} ({filename}:{lineno})")

    with warnings.catch_warnings():  # files that others have left open are no concern of the trial
        warnings.simplefilter("ignore")
        gc.collect()
    warnings.simplefilter("always")
    warnings.showwarning = told  # type: ignore[assignment]
    if report:
        _report(outcome, image, ground, shown)
    real, look_at = opening.open_image, opening.look_at

    def seen(path: Path) -> None:
        if str(path) != DAMAGED:
            look_at(path)

    def opened(path: Path | Sequence[Path], progress: Progress = unheard) -> Image:
        return image if str(path) == f"[{Path(DAMAGED)!r}]" else real(path, progress)

    opening.open_image, opening.look_at = opened, seen  # type: ignore[assignment]
    try:
        for argv in beside:
            _command(outcome, argv)
    finally:
        opening.open_image, opening.look_at = real, look_at
    return outcome


def _report(
    outcome: Outcome, image: Image, ground: Ground | None, shown: Sequence[tuple[str, dict[str, object]]]
) -> None:
    """The report, and which processes are in it."""
    from vmaforensics.analysis import analyse_image
    from vmaforensics.errors import VmaForensicsError
    from vmaforensics.report.document.build import build_document
    from vmaforensics.report.document.document import encode
    from vmaforensics.report.formats.render import rendered_pieces
    from vmaforensics.report.formats.text import render_text

    began = time.process_time()
    walked = set() if ground is None else plain_walk(ground, image.memory)
    try:
        analysis = analyse_image(image)
        document = build_document(analysis)
        outcome.findings = len(document.findings)
        outcome.processes = len(document.processes)
        outcome.sizes["report"] = len(render_text(document).encode())
        outcome.sizes["report json"] = len(encode(document))
        outcome.codes["report"] = 0
        outcome.wrong += [f"{item.what}: {item.why}" for item in document.not_assessed if "internal error" in item.why]
        found = set(analysis.views.tasks.task.tolist())
        if analysis.views.sources is not None:
            found |= set(analysis.views.sources.tasks.task.tolist())
        outcome.missed = len(walked - found)
        outcome.seconds["report"] = time.process_time() - began
        for name, options in shown:
            this = time.process_time()
            outcome.sizes[f"as {name}"] = sum(map(len, rendered_pieces(document, name, options)))
            outcome.seconds[f"as {name}"] = time.process_time() - this
    except VmaForensicsError as error:
        outcome.codes["report"] = int(error.exit_code)
        outcome.says = str(error)
        outcome.missed = len(walked)
    except Exception:
        outcome.codes["report"] = 70
        outcome.wrong.append(traceback.format_exc())
    outcome.seconds.setdefault("report", time.process_time() - began)


def broken_rules(outcome: Outcome, normal: Outcome) -> Iterator[tuple[str, str]]:
    """The rules that a trial breaks, each in a word and in words."""
    from vmaforensics.errors import ExitCode

    for name, code in outcome.codes.items():
        if code not in set(ExitCode) - {ExitCode.INTERNAL}:
            yield "code", f"{name} ends with {code}"
    for name, seconds in outcome.seconds.items():
        usual = normal.seconds.get(name, 0.0)
        if seconds + _BEGIN > TIMES_LONGER * (usual + _BEGIN):
            yield "time", f"{name} takes {seconds:.1f} s, usually {usual:.1f} s"
    for name, size in outcome.sizes.items():
        usual_size = normal.sizes.get(name, 0)
        if size > TIMES_WORDIER * usual_size + _PAGE_TEXT + _CARD * outcome.findings:
            yield "size", f"{name} prints {size} bytes, usually {usual_size}"
    if outcome.findings > MOST_FINDINGS:
        yield "findings", f"{outcome.findings} findings"
    if outcome.memory > TIMES_LARGER * normal.memory:
        yield "memory", f"{outcome.memory >> 10} MiB, usually {normal.memory >> 10}"
    if outcome.missed:
        yield "missed", f"{outcome.missed} processes missed that a plain walk finds: {outcome.says}"
    for words in outcome.wrong:
        yield "wrong", words


# Many trials ----------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Running:
    """A trial in a child of this process."""

    child: int
    read: int  # the end of the pipe from which its outcome comes, all at once
    seed: int
    kind: str


def begin(work: Callable[[], Outcome], seed: int, kind: str) -> Running:
    """``work`` in a child with a limit on its time and memory."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(read)
            resource.setrlimit(resource.RLIMIT_CPU, (_HARD_LIMIT, _HARD_LIMIT + 5))
            resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
            text = json.dumps(vars(work())).encode()
        except BaseException:
            text = json.dumps({"seed": seed, "kind": kind, "wrong": [traceback.format_exc()]}).encode()
        with os.fdopen(write, "wb") as stream:
            stream.write(text)
        os._exit(0)
    os.close(write)
    return Running(child=child, read=read, seed=seed, kind=kind)


def end(trial: Running) -> Outcome:
    """What a trial did, and how much memory it took."""
    with os.fdopen(trial.read, "rb") as stream:
        text = stream.read()
    _, status, usage = os.wait4(trial.child, 0)
    spent = usage.ru_utime + usage.ru_stime
    if status or not text:
        said: dict[str, Any] = {"seed": trial.seed, "kind": trial.kind, "wrong": [f"killed: status {status}"]}
    else:
        said = json.loads(text)
    return replace(Outcome(**said), memory=usage.ru_maxrss, spent=spent)


def outcomes(works: Iterable[tuple[Callable[[], Outcome], int, str]], jobs: int) -> Iterator[Outcome]:
    """Of each of ``works`` with its seed and kind, ``jobs`` at a time, in the order in which they end."""
    running: list[Running] = []
    for work, seed, kind in works:
        running.append(begin(work, seed, kind))
        if len(running) == jobs:
            yield end(running.pop(_ended(running)))
    while running:
        yield end(running.pop(_ended(running)))


def _ended(running: list[Running]) -> int:
    """Which of these has ended; waits for one."""
    ready, _, _ = select.select([trial.read for trial in running], [], [])
    return next(row for row, trial in enumerate(running) if trial.read in ready)


def trial(seed: int, ground: Ground, folder: Path, *, crash: bool = False, brief: bool = False) -> Outcome:
    """The trial of this number."""
    rng = np.random.default_rng(seed)
    commands = OF_CRASHES if crash else BESIDE
    beside = [commands[int(rng.integers(len(commands)))]]
    shown = [SHOWN[int(rng.integers(len(SHOWN)))]]
    if brief and (seed // _FILES + seed) % _FULL:
        beside, shown = [], []
    if seed % _FILES == _FILES - 1:
        from vmaforensics.errors import VmaForensicsError

        path = damaged_file(rng, ground.image.path, folder / str(seed))
        try:
            image = opening.open_image(path)
        except VmaForensicsError as error:
            return Outcome(seed=seed, kind="file", codes={"report": int(error.exit_code)}, says=str(error))
        return run_trial(seed, "file", image, None, beside, report=not crash, shown=shown)
    damage = KINDS[int(rng.integers(len(KINDS)))]
    ground.memory.become(damage(rng, ground))
    image = ground.image
    if rng.random() < 0.3:
        image = replace(image, vmcoreinfo=None)  # as of a raw image
    return run_trial(seed, damage.__name__, image, ground, beside, report=not crash, shown=shown)


def usual(ground: Ground, image: Image, *, crash: bool = False) -> Outcome:
    """The undamaged image with every command: with its pages unpacked, or as the file."""
    beside = OF_CRASHES if crash else BESIDE
    return run_trial(-1, "none", image, ground, beside, report=not crash, shown=SHOWN)


def _say(what: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def campaign(options: argparse.Namespace) -> int:
    """Run trials; how many broke a rule."""
    from vmaforensics.errors import ExitCode

    ground = prepare(options.image, options.other)
    usual(ground, ground.image, crash=options.crash)  # for what it loads: no trial has to
    gc.collect()
    gc.freeze()  # what trials share is copied by none of them

    def sound(image: Callable[[], Image]) -> Outcome:
        normal = end(begin(lambda: usual(ground, image(), crash=options.crash), -1, "none"))
        assert not normal.wrong, normal.wrong
        unread = ExitCode.IMAGE_UNREADABLE
        assert unread not in normal.codes.values(), f"the commands do not see the image: {normal.codes}"
        return normal

    normal = sound(lambda: ground.image)
    of_file = sound(lambda: opening.open_image(options.image))  # a damaged file is unpacked by each trial
    _say({"usual": vars(normal), "usual of the file": vars(of_file)})
    tally = Tally()
    began = time.monotonic()

    def works(folder: Path) -> Iterator[tuple[Callable[[], Outcome], int, str]]:
        for seed in range(options.first, options.first + options.trials):
            if options.minutes and time.monotonic() - began > 60 * options.minutes:
                return
            yield partial(trial, seed, ground, folder, crash=options.crash, brief=options.brief), seed, "?"

    with tempfile.TemporaryDirectory() as folder:
        for outcome in outcomes(works(Path(folder)), options.jobs):
            (Path(folder) / str(outcome.seed)).unlink(missing_ok=True)
            broken = list(broken_rules(outcome, of_file if outcome.kind == "file" else normal))
            tally.add(outcome, broken)
            if broken:
                _say({"seed": outcome.seed, "kind": outcome.kind, "broken": [words for _, words in broken]})
            if options.show:
                _say(vars(outcome))
            elif not tally.trials % _SAID:
                _say(tally.said())
    _say(tally.said())
    return tally.bad


@dataclass(kw_only=True)
class Tally:
    """The trials so far."""

    trials: int = 0
    bad: int = 0  # trials that broke a rule
    spent: float = 0.0  # s of the CPU
    rules: Counter[str] = field(default_factory=Counter)  # trials that broke each
    codes: dict[str, Counter[str]] = field(default_factory=dict)  # of each kind: trials by the exit codes they met

    def add(self, outcome: Outcome, broken: Sequence[tuple[str, str]]) -> None:
        """Count a trial and the rules that it broke."""
        self.trials += 1
        self.bad += bool(broken)
        self.spent += outcome.spent
        self.rules.update({rule for rule, _ in broken})
        met = sorted({str(code) for code in outcome.codes.values()}) or ["none"]
        self.codes.setdefault(outcome.kind, Counter())[" and ".join(met)] += 1

    def said(self) -> dict[str, object]:
        """For people; each trial is counted once among the codes, and once for each rule that it broke."""
        return {
            "trials": self.trials,
            "broken": self.bad,
            "CPU per trial": round(self.spent / max(self.trials, 1), 2),
            "rules": dict(sorted(self.rules.items())),
            "codes": {kind: dict(sorted(codes.items())) for kind, codes in sorted(self.codes.items())},
        }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="What random damage of an image costs.")
    parser.add_argument("image", type=Path)
    parser.add_argument("--other", type=Path, help="an image of another kernel, to take pages from")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--crash", action="store_true", help="the commands of crash cases instead of the report")
    parser.add_argument("--brief", action="store_true", help="most trials have the report in text and JSON alone")
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time")
    parser.add_argument("--minutes", type=float, default=0, help="begin no trial after that")
    parser.add_argument("--show", action="store_true", help="everything a trial did")
    return 1 if campaign(parser.parse_args()) else 0


if __name__ == "__main__":
    sys.exit(main())
