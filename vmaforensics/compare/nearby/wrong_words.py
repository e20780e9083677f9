"""What is wrong with the words of one index, by address: what the evidence of findings and the walk itself say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.views.problems import Problem
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from vmaforensics.checks.finding import Evidence, Finding
    from vmaforensics.views.view import View
    from vmaforensics.views.views import Views

_TEXTS = 3  # things that are wrong with one node
_LONG = 400  # characters of one
_MOST = 256  # words
_NODE = 256  # bytes that a maple_node is aligned to (MAPLE_NODE_MASK, include/linux/maple_tree.h)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongWords:
    """Of one address space and index: ``(address, text)`` of each wrong word, and the ranges of the findings."""

    texts: tuple[tuple[int, str], ...]
    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, views: Views, mm: int, index: View, findings: Sequence[Finding]) -> WrongWords:
        """Collect them; ``findings`` are those of ``mm``."""
        texts = [
            (item.address, _text(item)) for finding in findings for item in finding.evidence if item.view == index.label
        ]
        problems = views.problems
        rows = np.flatnonzero((problems.view == index) & (problems.mm == np.uint64(mm)))[:_MOST]
        for row in rows.tolist():
            where, value, problem = int(problems.where[row]), int(problems.value[row]), Problem(problems.problem[row])
            # A dead node is shown at the node, other problems at the word that leads on.
            address = value & -_NODE if problem == Problem.DEAD else where
            texts.append((address, f"{value:#x} at {where:#x}: {problem.text}"))
        spans = [
            (finding.start, min(finding.end, (1 << 64) - 1))
            for finding in findings
            if finding.start is not None and finding.end
        ]
        return cls(
            texts=tuple((address, text) for address, text in texts[:_MOST] if 0 < address < 1 << 64),
            ranges=tuple((start, end) for start, end in spans if start < end),
        )

    @property
    def addresses(self) -> list[int]:
        """The addresses, each once."""
        return list(dict.fromkeys(address for address, _ in self.texts))

    def text(self, low: int, size: int, *, also: int = -1, without: Collection[int] = ()) -> str:
        """What is wrong with the words in ``[low, low + size)`` and the word at ``also``; empty if nothing. Words at
        the addresses ``without`` are left out."""
        inside = (
            text
            for address, text in self.texts
            if (low <= address < low + size or address == also) and address not in without
        )
        texts = list(dict.fromkeys(inside))
        more = [f"and {len(texts) - _TEXTS} more"] if len(texts) > _TEXTS else []
        return "; ".join(texts[:_TEXTS] + more)


def _text(item: Evidence) -> str:
    text = printable(item.what)
    text = text if len(text) <= _LONG else text[:_LONG] + "…"
    return f"{text} ({printable(item.found)}, expected {printable(item.expected)})" if item.expected else text
