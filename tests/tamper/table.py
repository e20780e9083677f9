"""Which technique is found on which kernel: runs every labelled edit and writes ``docs/detection.md``.

    python -m tests.tamper.table             print the page
    python -m tests.tamper.table --update    write it
    python -m tests.tamper.table built-6.12-plain    the page of other images of the recipe

Every tuple of edits in ``tests/tamper/*edits.py`` takes part, by itself and, where an edit can repair what it
leaves behind, repaired. Whole images of the recipe are used where they are there, else the bundled excerpts.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support import ROOT, SAMPLES, Edit, Sample, again_from_views, built

from tamper.page import render
from vmaforensics.checks.finding import Finding, Severity
from vmaforensics.errors import VmaForensicsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tamper.edits import Label

KERNELS = ("debian-5.10", "debian-6.1", "debian-6.1-la57", "debian-6.12", "debian-7.3")
PAGE = ROOT / "docs/detection.md"
_PARTS = 2  # pieces of work per kernel
# What an edit raises where the kernel or the image has nothing that it could be made on.
_DOES_NOT_APPLY = (AssertionError, KeyError, IndexError, ValueError, VmaForensicsError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was found after one edit of one image."""

    kernel: str
    family: str
    edit: str
    technique: str = ""  # empty: the edit does not apply
    why: str = ""  # it does not
    rank: Severity = Severity.HIGH  # that the finding must have
    hit: bool = False
    rules: tuple[str, ...] = ()  # of the findings that name what was edited
    views: tuple[str, ...] = ()  # whose records are their evidence
    right: int = 0
    wrong: tuple[str, ...] = ()  # findings at least as severe that name something else


@dataclass(slots=True, kw_only=True)
class Clean:
    """What was found in an unchanged image."""

    kernel: str
    release: str
    above_low: list[str] = field(default_factory=list)


def edits() -> list[tuple[str, str, Callable[[Edit], Label]]]:
    """(family, name, edit) of every edit there is, in a fixed order."""
    found: dict[tuple[str, str], Callable[[Edit], Label]] = {}
    for path in sorted(Path(__file__).parent.glob("*edits.py")):
        module = importlib.import_module(f"tamper.{path.stem}")
        family = path.stem.removesuffix("edits").rstrip("_") or "index"
        for edit in _of(module):
            name = edit.__name__
            found.setdefault((family, name), edit)
            if "repaired" in inspect.signature(edit).parameters:
                found.setdefault((family, f"{name}, repaired"), functools.partial(edit, repaired=True))
    return [(family, name, edit) for (family, name), edit in found.items()]


def _of(module: Any) -> Iterator[Callable[..., Label]]:  # noqa: ANN401
    for value in vars(module).values():
        if isinstance(value, tuple):
            for item in value:
                edit = item[0] if isinstance(item, tuple) else item
                if inspect.isfunction(edit) and "edit" in inspect.signature(edit).parameters:
                    yield edit


def images(kernels: Sequence[str]) -> list[Sample]:
    """The images of these names that there are."""
    whole = {image.name: image for image in built(*kernels)}
    bundled = {sample.name: sample for sample in SAMPLES}
    return [found for name in kernels if (found := whole.get(name) or bundled.get(name)) is not None]


def serious(findings: list[Finding], clean: list[Finding], rank: Severity) -> list[Finding]:
    """Those that are at least of ``rank``, and were not made of the clean image already."""
    known = {(sample.rule.id, sample.mm, sample.start, sample.end, sample.severity) for sample in clean}
    return [
        finding
        for finding in findings
        if finding.severity.rank <= rank.rank
        and (finding.rule.id, finding.mm, finding.start, finding.end, finding.severity) not in known
    ]


def names(one: Finding, label: Label) -> bool:
    """Does a finding name the process and, where both have one, a range that overlaps?"""
    if one.pid != label.pid:
        return False
    if label.end == 0 or one.start is None or one.end is None:
        return True
    return one.start < label.end and label.start < one.end


def try_edit(sample: Sample, family: str, name: str, edit: Callable[[Edit], Label]) -> Outcome:
    """Make the edit on a copy of the image and analyse it."""
    copy = Edit(sample.analysis)
    try:
        label = edit(copy)
    except _DOES_NOT_APPLY as error:
        return Outcome(kernel=sample.name, family=family, edit=name, why=f"{type(error).__name__}: {error}")
    findings = again_from_views(sample.analysis, copy.overlay).findings
    found = serious(findings, sample.analysis.findings, label.rank)
    right = [item for item in found if names(item, label)]
    placed = [row for row in right if label.end == 0 or row.start is not None or f"{label.start:#x}" in row.title]
    return Outcome(
        kernel=sample.name,
        family=family,
        edit=name,
        technique=label.technique,
        rank=label.rank,
        hit=bool(placed),
        rules=tuple(sorted({row.rule.id for row in right})),
        views=tuple(sorted({item.view for row in right for item in row.evidence if item.view})),
        right=len(right),
        wrong=tuple(f"{item.rule.id} pid {item.pid}: {item.title}" for item in found if item not in right),
    )


def work(name: str, part: int) -> tuple[Clean, list[Outcome]]:
    """One part of the edits on one kernel's image."""
    (sample,) = images([name])
    analysis = sample.analysis
    clean = Clean(kernel=name, release=analysis.kernel.identity.release)
    clean.above_low = [
        f"{finding.rule.id} pid {finding.pid}: {finding.title}"
        for finding in analysis.findings
        if finding.severity.rank < Severity.LOW.rank
    ]
    return clean, [try_edit(sample, *edit) for edit in edits()[part::_PARTS]]


def run(kernels: Sequence[str]) -> tuple[list[Clean], list[Outcome]]:
    """Every edit on every image; two at a time."""
    jobs = [(image.name, part) for image in images(kernels) for part in range(_PARTS)]
    with ProcessPoolExecutor(2, initializer=os.nice, initargs=(10,)) as pool:
        done = list(pool.map(work, *zip(*jobs, strict=True)))
    clean = {one.kernel: one for one, _ in done}
    return list(clean.values()), [outcome for _, some in done for outcome in some]


def main() -> int:
    """Run, and write or print the page; what was missed goes to stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write docs/detection.md")
    parser.add_argument("kernel", nargs="*", default=KERNELS, help="images of the recipe; default those of the page")
    args = parser.parse_args()
    clean, outcomes = run(args.kernel)
    order = [(family, name) for family, name, _ in edits()]
    text = render(clean, outcomes, order)
    if args.update:
        PAGE.write_text(text)
    else:
        sys.stdout.write(text)
    for outcome in outcomes:
        where = f"{outcome.kernel} {outcome.family}.{outcome.edit}"
        if outcome.technique and not outcome.hit:
            sys.stderr.write(f"MISS {where}: {', '.join(outcome.rules) or 'nothing'}\n")
        sys.stderr.writelines(f"WRONG {where}: {text}\n" for text in outcome.wrong)
        if outcome.why:
            sys.stderr.write(f"not on {where}: {outcome.why}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
