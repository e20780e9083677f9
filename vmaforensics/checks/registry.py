"""Every rule there is: the modules of the chapters of ``checks/`` that have a ``RULE``."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from vmaforensics.checks.rule import Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

#: Folders of ``checks/`` with rules, in the order in which rules are listed.
CHAPTERS = (
    "indices",
    "vmas",
    "files",
    "pages",
    "reverse_maps",
    "slab",
    "processes",
    "anchors",
    "descriptors",
    "frames",
    "road",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleModule:
    """A rule, its check, and where it is."""

    rule: Rule
    check: Callable[[Context], Iterator[Finding]]
    chapter: str
    path: str  # of the file, below the package: checks/vmas/vma_range.py
    doc: str  # the docstring: the long form


@cache
def rule_modules() -> tuple[RuleModule, ...]:
    """Every rule with its check, by chapter, then by rank. Imports all chapters."""
    found = [module for chapter in CHAPTERS for module in _rules_of(chapter)]
    if len({module.rule.id for module in found}) != len(found):
        raise ValueError("two rules have the same id")
    return tuple(sorted(found, key=lambda module: (CHAPTERS.index(module.chapter), module.rule.rank)))


def all_rules() -> tuple[Rule, ...]:
    """Every rule, by chapter, then by rank."""
    return tuple(module.rule for module in rule_modules())


def rule(rule_id: str) -> Rule:
    """The rule of that id; :class:`KeyError` if there is none."""
    return {known.id: known for known in all_rules()}[rule_id]


def _rules_of(chapter: str) -> Iterator[RuleModule]:
    package = importlib.import_module(f"vmaforensics.checks.{chapter}")
    for _, name, _ in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
        module = importlib.import_module(f"{package.__name__}.{name}")
        record = vars(module).get("RULE")
        if isinstance(record, Rule):
            yield RuleModule(
                rule=record,
                check=module.check,
                chapter=chapter,
                path=f"checks/{chapter}/{name}.py",
                doc=inspect.cleandoc(module.__doc__ or ""),
            )
