"""The results as a page for ``docs/``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from contenders import EARLIER
from store import busy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from measure import Result
    from store import Machine, Subject

TARGET_IMAGE = "bench-2g"
TARGET_COMMAND = "report --format json"
LARGE_IMAGE, TOUCHED_IMAGE = "bench-128g", "bench-touched-2g-kdump"
TOUCHED_PLAIN = "bench-touched-2g"
LARGE_TIMES, LARGE_OPENS, LARGE_BYTES = 1.5, 1.0, 1_500_000_000
DRGN_TIMES = 2.0  # as fast as its walk of one view
TARGET_SECONDS = 1.6
TARGET_BYTES = 350_000_000

_OWN = "vmaforensics"

_HOW = """\
Written by `bench/run.py --update`; `make bench` measures on your own machine.

Each figure is of a whole process, measured from outside, from its start to its end: the start of the interpreter
and writing the output to a file are in it. A warm-up comes before the {runs} runs that count. Time is elapsed time:
the median and, in parentheses, the shortest and the longest. CPU is user and system time of all threads, the median.
Memory is the largest peak resident set (`ru_maxrss`); pages of the image count in it while they are mapped. The
image was in the page cache: reading it from a disk comes on top. Whatever else runs on the machine makes elapsed
time longer; CPU time shows it less."""

_OTHERS = """\
This is no ranking, for these commands do not do the same work: `{command}` reads every view,
checks each against the others and names every area; drgn and volatility3 read one view and check nothing. drgn reads
a `vmlinux` with debug information for this very kernel, volatility3's own plugin a symbol file of that kernel, and
vmaforensics nothing but the image. Getting or making those files is not in their times, nor is volatility3's
indexing of its symbols. "Areas" is how many the command printed; the guest itself counted {areas}. The column "times"
compares CPU time with that of `{command}`."""

_CASES = """\
The image is of a machine at rest with 405 processes; drgn reads the `vmlinux` with debug information, vmaforensics the
image alone."""

_WALK = "page-table walk"
_GROWTH = """\
`{command}`, with every view and every rule, by what grows: bench-2g has 400 processes and 30,000 areas in each of two
more, -x2 and -x4 have twice and four times as many of both; bench-touched-1g to -8g have few areas and 1 to 8 GiB of
memory touched, in pages of 4 KiB; in bench-shared-40 and -400 as many processes map the same GiB. "Entries" are the
entries of the user halves of all page tables that are not zero; "walk" is how long reading them takes within the
process, the shortest of three, the image being in the page cache. What is done with each entry after that (its area,
its `struct page`, its owner, the rules) is in the time of the report."""

_LARGE = """\
The guest of {large} has 128 GiB of RAM, and its programs do what those of {touched} do: the rest was never
used. Both are kdumps with zlib; {plain} is the same as an ELF core, which needs no unpacking. `info` finds the kernel
and says what every frame is used for."""

_BEFORE = """\
The same commands of the version before, in the same run: what a change of the whole program has cost or gained. Memory
an area is that of the whole process divided by the areas of the image."""

_BUSY = """**The machine was busy** while this was measured: {names}. Their elapsed times are too long, by
how much is not known; compare their CPU times."""


_SCAN = Path(__file__).with_name("scan_speed.md")


def page(here: Machine, subjects: Sequence[Subject], results: Mapping[str, Mapping[str, Result]]) -> str:
    """The whole page, of the results of ``subjects``."""
    measured = [(subject, results[subject.key]) for subject in subjects if results.get(subject.key)]
    return "\n".join(_lines(here, measured)) + "\n"


def target(result: Result) -> str:
    """How a result of the target's command on the target's image compares with the target."""
    met = result.wall <= TARGET_SECONDS and result.peak <= TARGET_BYTES
    return (
        f"target of {TARGET_SECONDS} s and {TARGET_BYTES / 1e6:.0f} MB {_met(met)}: "
        f"{result.wall:.2f} s and {result.peak / 1e6:.0f} MB"
    )


def span(result: Result) -> str:
    """The median, and the extremes of more than one run."""
    walls = [run.wall for run in result.runs]
    if len(walls) == 1:
        return f"{walls[0]:.2f} s (one run)"
    return f"{result.wall:.2f} s ({min(walls):.2f}–{max(walls):.2f})"


def _lines(here: Machine, measured: Sequence[tuple[Subject, Mapping[str, Result]]]) -> Iterator[str]:
    ours = [result for _, found in measured for result in found.values() if result.tool == _OWN]
    yield "# Benchmarks"
    yield ""
    yield _HOW.format(runs=_all(len(our.runs) for our in ours))
    yield ""
    yield f"* CPU: {here.cpu}, {here.cores} cores"
    yield f"* Python {here.python}, NumPy {here.numpy}"
    yield f"* vmaforensics {_all(our.version for our in ours)}, measured on {_all(our.date for our in ours)}"
    names = sorted({f"`{name}`" for _, found in measured for name, result in found.items() if busy(here, result)})
    if names:
        yield ""
        yield _BUSY.format(names=", ".join(names))
    yield ""
    yield "## Images"
    yield ""
    yield "Debian kernels in QEMU; `samples/recipe` makes them."
    yield ""
    images = [
        (
            subject.name,
            subject.release,
            f"{subject.size / 2**30:.2f} GiB",
            f"{subject.processes:,}",
            f"{subject.areas:,}",
        )
        for subject, _ in measured
    ]
    yield from _table(("image", "kernel", "file", "processes", "areas"), images)
    yield ""
    yield "## vmaforensics"
    yield ""
    times = [
        (
            subject.name,
            f"`{name}`",
            span(result),
            f"{result.cpu:.2f} s",
            _memory(result),
            f"{subject.areas / result.wall:,.0f}",
        )
        for subject, found in measured
        for name, result in found.items()
        if result.tool == _OWN and result.walk is None and not result.of_case and not name.endswith(EARLIER)
    ]
    yield from _table(("image", "command", "time", "CPU", "memory", "areas a second"), times)
    for subject, found in measured:
        if subject.name == TARGET_IMAGE and TARGET_COMMAND in found:
            yield ""
            yield f"`{TARGET_COMMAND}` on {subject.name}: {target(found[TARGET_COMMAND])}."
    yield from _before_and_after(measured)
    yield from _growth(measured)
    yield from _large({subject.name: found for subject, found in measured})
    for subject, found in measured:
        if subject.name == TARGET_IMAGE and any(result.tool != _OWN for result in found.values()):
            yield from _comparison(subject, found)
        if subject.name == TARGET_IMAGE and any(result.of_case for result in found.values()):
            yield from _cases(subject, found)
    if _SCAN.exists():  # what bench/scan_speed.py has measured
        yield ""
        yield _SCAN.read_text(encoding="utf-8").rstrip("\n")


def _before_and_after(measured: Sequence[tuple[Subject, Mapping[str, Result]]]) -> Iterator[str]:
    """Commands that another version was measured with too, one beside the other."""
    rows = []
    for subject, found in measured:
        for name, now in found.items():
            before = found.get(name + EARLIER)
            if before is None:
                continue
            memory = (f"{result.peak / subject.areas:,.0f} bytes" for result in (before, now))
            rows.append(
                (
                    subject.name,
                    f"`{name}`",
                    f"{before.cpu:.2f} s",
                    f"{now.cpu:.2f} s",
                    _memory(before),
                    _memory(now),
                    *memory,
                )
            )
    if not rows:
        return
    yield ""
    yield "## Before and after"
    yield ""
    yield _BEFORE
    yield ""
    head = "image|command|CPU before|now|memory before|now|an area, before|now"
    yield from _table(head.split("|"), rows)


def _growth(measured: Sequence[tuple[Subject, Mapping[str, Result]]]) -> Iterator[str]:
    walked = [(subject, found) for subject, found in measured if _WALK in found and TARGET_COMMAND in found]
    if not walked:
        return
    yield ""
    yield "## Growth"
    yield ""
    yield _GROWTH.format(command=TARGET_COMMAND)
    yield ""
    rows = []
    for subject, found in walked:
        report, walk = found[TARGET_COMMAND], found[_WALK]
        assert walk.entries is not None
        assert walk.walk is not None
        rate = f"{walk.entries / walk.walk / 1e6:.1f} M"
        sizes = (f"{number:,}" for number in (subject.processes, subject.areas, walk.entries))
        times = (f"{report.wall:.2f} s", f"{report.cpu:.2f} s", _memory(report), f"{walk.walk * 1000:.0f} ms")
        rows.append((subject.name, *sizes, *times, rate))
    head = "image|processes|areas|entries|time|CPU|memory|walk|entries a second"
    yield from _table(head.split("|"), rows)


def _large(found: Mapping[str, Mapping[str, Result]]) -> Iterator[str]:
    """What the size of a machine costs."""
    reports = [(image, TARGET_COMMAND) for image in (LARGE_IMAGE, TOUCHED_IMAGE, TOUCHED_PLAIN)]
    wanted = [(LARGE_IMAGE, "info"), *reports]
    if any(name not in found.get(image, {}) for image, name in wanted):
        return
    results = [found[image][name] for image, name in wanted]
    opens, large, touched, plain = results
    yield ""
    yield "## A large machine that is hardly used"
    yield ""
    yield _LARGE.format(large=LARGE_IMAGE, touched=TOUCHED_IMAGE, plain=TOUCHED_PLAIN)
    yield ""
    rows = [
        (image, f"`{name}`", span(result), f"{result.cpu:.2f} s", _memory(result))
        for (image, name), result in zip(wanted, results, strict=True)
    ]
    yield from _table(["image", "command", "time", "CPU", "memory"], rows)
    yield ""
    times = large.cpu / touched.cpu
    for met, aim, got in (
        (opens.wall <= LARGE_OPENS, f"`info` in {LARGE_OPENS:.0f} s", f"{opens.wall:.2f} s"),
        (
            times <= LARGE_TIMES,
            f"{LARGE_TIMES} times the CPU time of {TOUCHED_IMAGE}",
            f"{times:.2f} times, and {large.cpu / plain.cpu:.2f} times that of {TOUCHED_PLAIN}",
        ),
        (large.peak <= LARGE_BYTES, f"{LARGE_BYTES / 1e6:.0f} MB", _memory(large)),
    ):
        yield f"* Target of {aim} {_met(met)}: {got}."


def _met(kept: bool, /) -> str:
    return "met" if kept else "MISSED"


def _comparison(one: Subject, found: Mapping[str, Result]) -> Iterator[str]:
    base = found.get(TARGET_COMMAND)
    rows = [
        (
            f"{result.tool} {result.version}",
            f"`{name}`",
            result.does,
            span(result),
            f"{result.cpu:.2f} s",
            _memory(result),
            f"{result.areas:,}",
            f"{result.cpu / base.cpu:,.1f}" if base else "",
            result.date,
        )
        for name, result in found.items()
        if result.areas is not None
    ]
    yield ""
    yield f"## Beside other tools, on {one.name}"
    yield ""
    yield _OTHERS.format(command=TARGET_COMMAND, areas=f"{one.areas:,}")
    yield ""
    head = "tool|command|what it reads and prints|time|CPU|memory|areas|times|measured"
    yield from _table(head.split("|"), rows)
    yield from _against_drgn(base, found.get("maps"), found.get("for_each_vma"))
    ours, theirs = found.get("linux.vmaxview.VmaXView"), found.get("linux.proc.Maps")
    if ours and theirs:
        yield ""
        ratio = f"{theirs.wall / ours.wall:.0f} times as fast as `linux.proc.Maps` (one view, as text)"
        yield f"In volatility3, `linux.vmaxview.VmaXView` (all views, as JSON) was {ratio}."


def _against_drgn(report: Result | None, maps: Result | None, walk: Result | None) -> Iterator[str]:
    if report is None or maps is None or walk is None:
        return
    kept = _met(walk.cpu >= DRGN_TIMES * report.cpu)
    yield ""
    times = f"{walk.cpu / report.cpu:.1f} times as fast"
    yield f"Target of all views in half the CPU time of drgn's walk of one {kept}: {times}."
    yield f"Of it `maps`, which reads every area and its name, takes {maps.cpu:.2f} s. What is left goes into"
    yield "page tables, reverse maps, slab, page frames, the kernel's code, the rules and the document: drgn's walk"
    yield "reads nothing of these."


def _cases(one: Subject, found: Mapping[str, Result]) -> Iterator[str]:
    """What a crash engineer asks for first."""
    yield ""
    yield f"## Crash cases, on {one.name}"
    yield ""
    yield _CASES
    yield ""
    rows = [
        (
            f"{result.tool} {result.version}",
            f"`{name}`",
            result.does,
            span(result),
            f"{result.cpu:.2f} s",
            _memory(result),
            result.date,
        )
        for name, result in found.items()
        if result.of_case
    ]
    yield from _table(["tool", "command", "what it reads and prints", "time", "CPU", "memory", "measured"], rows)
    crash, info = found.get("crash --all"), found.get("info")
    if crash and info:
        limit = 1.5 * info.cpu + 1
        yield ""
        yield (
            f"`crash --all` may take one and a half times as long as `info` and a second: {limit:.2f} s of CPU time, "
            f"{'kept' if crash.cpu <= limit else 'MISSED'} with {crash.cpu:.2f} s."
        )


def _all(values: Iterator[object]) -> str:
    """Each different value once."""
    return " or ".join(str(value) for value in sorted(set(values), key=str))


def _memory(result: Result) -> str:
    return f"{result.peak / 1e6:.0f} MB"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join('---' for _ in head)}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
