"""What there is to know of each rule beside what it says in a finding: for ``vmaforensics explain``.

The long form, with the kernel functions that guarantee each rule, is docs/rules/README.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmaforensics.checks.finding import Rule
    from vmaforensics.views.view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Guide:
    """How a rule is checked, and how to check it by hand.

    ``by_hand`` are lines for crash or drgn with a vmlinux of that kernel, each under the tool's name. ``PID``,
    ``MM``, ``VMA``, ``NODE``, ``PAGE``, ``TASK`` and ``ADDRESS`` stand for what a finding names.
    """

    compares: str
    views: tuple[View, ...]  # whose records take part
    transient: str  # the legal states a kernel passes through that look the same
    by_hand: tuple[str, ...]


def guide_of(rule: Rule) -> Guide | None:
    """The guide to a rule; None for one that has none yet."""
    from vmaforensics.checks.guide_index import INDEX
    from vmaforensics.checks.guide_others import OTHERS
    from vmaforensics.checks.guide_pages import PAGES

    return (INDEX | PAGES | OTHERS).get(rule.id)
