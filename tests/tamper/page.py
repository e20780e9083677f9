"""The page ``docs/detection.md``, as text: a pure function of what ``tests.tamper.table`` found."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tamper.table import Clean, Outcome

_FAMILIES = {
    "index": "The index of the memory map",
    "tree": "The index, left as the kernel's own code would leave it",
    "page": "Page tables and pages",
    "text": "Code against the page cache",
    "rmap": "Reverse maps",
    "slab": "What only the allocator and the lists of processes contradict",
    "frame": "Page frames that no address leads to",
    "anchor": "Registers, counts and contents",
    "kernel": "What is the kernel's own in every process, and what is disguised as such",
    "identity": "Who a process says it is",
    "disguise": "What files, areas and tasks say they are",
    "swap": "Slots of swap",
}

_INTRODUCTION = """\
# What is found, technique by technique

Made by `python -m tests.tamper.table --update`; do not edit it by hand. Each row is an edit of a clean image of a real
kernel, made as one way of hiding memory would make it (`tests/tamper`), and analysed again. Nothing but the image is
looked at, and nothing but the edit is different.

A cell names the rules of the findings of severity high or critical that name the edited process and a range that
overlaps the edited one (for edits of whole processes: the process). A technique that leaves a state a kernel allows is
looked for at its own rank, which stands behind it in brackets. Findings with one cause are told as one, so the
rule is that of the first; *views* lists whose records are its evidence, over all kernels.

| mark | |
|---|---|
| – | does not apply: the kernel or the image has no such record |
| **missed** | no such finding |

*Recall* is the part of the edits that were found. *Precision* is the part of the findings of that severity or above
that name what was edited; the others are listed at the end. An edit and its repaired form (counters and, where it says
so, further records) are rows of their own. Edits are not a sample of what intruders do: the figures say how complete
the views are, no more.

Where no whole image of a kernel is at hand, the bundled excerpt of one is edited, which has no code of the kernel and
not all that rules ask for.
"""


def render(clean: list[Clean], outcomes: list[Outcome], order: list[tuple[str, str]]) -> str:
    """The whole page."""
    lines = [_INTRODUCTION, *_summary(clean, outcomes), *_clean(clean)]
    kernels = [sample.kernel for sample in clean]
    table = {(outcome.family, outcome.edit, outcome.kernel): outcome for outcome in outcomes}
    families = dict.fromkeys([*_FAMILIES, *(family for family, _ in order)])
    for family in families:
        names = [name for group, name in order if group == family]
        lines += [f"## {_FAMILIES.get(family, family.capitalize())}", ""]
        lines += [f"| technique | {' | '.join(map(_short, kernels))} | views | recall | precision |"]
        lines += ["|---" * (len(kernels) + 4) + "|"]
        for name in names:
            mine = [table[family, name, kernel] for kernel in kernels if (family, name, kernel) in table]
            if any(one.technique for one in mine):
                lines.append(_row(name, mine))
        lines.append("")
    return "\n".join([*lines, *_wrong(outcomes)]) + "\n"


def _short(kernel: str) -> str:
    return kernel.removeprefix("debian-")


def _row(name: str, mine: list[Outcome]) -> str:
    technique = next(one.technique for one in mine if one.technique)
    views = sorted({view for one in mine for view in one.views})
    cells = [_cell(one) for one in mine]
    rank = next(one.rank for one in mine if one.technique)
    technique += "" if rank.value == "high" else f" [{rank.value}]"
    told = [f"{technique} (`{name}`)", *cells, ", ".join(views), _recall(mine), _precision(mine)]
    return f"| {' | '.join(told)} |"


def _wrong(outcomes: list[Outcome]) -> Iterator[str]:
    """What a precision below 1 comes from, by edit and rule."""
    counts: dict[tuple[str, str], list[str]] = {}
    for outcome in outcomes:
        for text in outcome.wrong:
            counts.setdefault((outcome.edit, text.split(" ", 1)[0]), []).append(f"{_short(outcome.kernel)}: {text}")
    yield "## Findings that name something else"
    yield ""
    if not any(outcome.wrong for outcome in outcomes):
        yield "None."
        return
    yield "Findings of that severity or above that do not overlap what was edited, one example of each kind:"
    yield ""
    for (edit, _), texts in counts.items():
        yield f"* `{edit}` ({len(texts)}): {texts[0]}"


def _cell(one: Outcome) -> str:
    if not one.technique:
        return "–"
    return ", ".join(one.rules) if one.hit else "**missed**"


def _recall(mine: list[Outcome]) -> str:
    tried = [one for one in mine if one.technique]
    return f"{sum(row.hit for row in tried)}/{len(tried)}"


def _precision(mine: list[Outcome]) -> str:
    right = sum(one.right for one in mine)
    return f"{right}/{right + sum(len(one.wrong) for one in mine)}"


def _summary(clean: list[Clean], outcomes: list[Outcome]) -> Iterator[str]:
    yield "## In all"
    yield ""
    yield "| kernel | edits | recall | precision |"
    yield "|---|---|---|---|"
    for sample in clean:
        mine = [item for item in outcomes if item.kernel == sample.kernel]
        tried = sum(bool(item.technique) for item in mine)
        yield f"| {_short(sample.kernel)} ({sample.release}) | {tried} | {_recall(mine)} | {_precision(mine)} |"
    tried = sum(bool(item.technique) for item in outcomes)
    yield f"| all | {tried} | {_recall(outcomes)} | {_precision(outcomes)} |"
    yield ""


def _clean(clean: list[Clean]) -> Iterator[str]:
    yield "Findings above low in the clean images: " + (
        "none." if not any(sample.above_low for sample in clean) else "these, each a bug of its rule:"
    )
    yield ""
    for sample in clean:
        for text in sample.above_low:
            yield f"* {_short(sample.kernel)}: {text}"
    if any(sample.above_low for sample in clean):
        yield ""
