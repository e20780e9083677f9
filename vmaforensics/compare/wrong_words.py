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

_TOLD = 3  # things that are wrong with one node
_LONG = 400  # characters of one
_MOST = 256  # words
_NODE = 256  # bytes that a maple_node is aligned to (MAPLE_NODE_MASK, include/linux/maple_tree.h)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrongs:
    """Of one address space and index: ``(address, what)`` of each wrong word, and the ranges of the findings."""

    told: tuple[tuple[int, str], ...]
    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, views: Views, mm: int, index: View, findings: Sequence[Finding]) -> Wrongs:
        """Collect them; ``findings`` are those of ``mm``."""
        told = [(item.address, _text(item)) for one in findings for item in one.evidence if item.view == index.label]
        problems = views.problems
        mine = problems[(problems["view"] == index) & (problems["mm"] == np.uint64(mm))][:_MOST]
        for where, value, problem in zip(*(mine[name].tolist() for name in ("where", "value", "problem")), strict=True):
            # A dead node is told at the word that leads to it.
            at = value & -_NODE if problem == Problem.DEAD else where
            told.append((at, f"{value:#x} at {where:#x}: {Problem(problem).text}"))
        spans = [(one.start, min(one.end, (1 << 64) - 1)) for one in findings if one.start is not None and one.end]
        return cls(
            told=tuple((at, text) for at, text in told[:_MOST] if 0 < at < 1 << 64),
            ranges=tuple((start, end) for start, end in spans if start < end),
        )

    @property
    def words(self) -> list[int]:
        """The addresses, each once."""
        return list(dict.fromkeys(at for at, _ in self.told))

    def text(self, low: int, size: int, also: int = -1, besides: Collection[int] = ()) -> str:
        """What is wrong with the words in ``[low, low + size)`` and the one at ``also``, but for those ``besides``;
        empty if nothing."""
        inside = (text for at, text in self.told if (low <= at < low + size or at == also) and at not in besides)
        texts = list(dict.fromkeys(inside))
        more = [f"and {len(texts) - _TOLD} more"] if len(texts) > _TOLD else []
        return "; ".join(texts[:_TOLD] + more)


def _text(item: Evidence) -> str:
    text = printable(item.what)
    text = text if len(text) <= _LONG else text[:_LONG] + "…"
    return f"{text} ({printable(item.found)}, expected {printable(item.expected)})" if item.expected else text
