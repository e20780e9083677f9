"""Findings as parts of the result document, with what people read first of one."""

from __future__ import annotations

from typing import Literal

from vmaforensics.report.document.html_summary import escaped
from vmaforensics.report.document.parts import Part

_SHOWN = 5  # pieces of evidence in a notebook
# Which records convince most, where several disagree: those an intruder has to reach into other structures
# for, before those next to what was changed.
_WEIGHT = (
    "kernel code",
    "page tables",
    "slab",
    "i_mmap",
    "anon_vma",
    "counters",
    "struct page",
    "maple tree",
    "rbtree",
    "vm_next list",
    "mm sources",
    "task list",
    "descriptors",
    "VMA",
    "files",
    "anchors",
    "lock",
)


class Evidence(Part, frozen=True):
    """One record that takes part in a disagreement."""

    what: str
    view: str
    address: str | None
    found: str
    expected: str


class Technique(Part, frozen=True):
    """An ATT&CK technique that a finding is consistent with."""

    id: str
    name: str


class Hexdump(Part, frozen=True):
    """A few bytes of the image that take part in a finding."""

    what: str  # "first bytes of the VMA", "the vm_area_struct", …
    address: str
    data: str | None  # hexadecimal digits, at most 128; null: not in the dump


class HandCheck(Part, frozen=True):
    """Lines to type into another tool to see the same words."""

    tool: Literal["drgn", "crash", "volshell"]
    lines: tuple[str, ...]


class Finding(Part, frozen=True):
    """A disagreement between records."""

    id: str  # stable for one disagreement in one image: derived from rule, mm and start
    rule: str
    rule_title: str
    severity: Literal["critical", "high", "medium", "low", "info"]
    confidence: Literal["high", "medium", "low"]
    pid: int
    comm: str
    mm: str
    start: str | None
    end: str | None
    title: str
    why: str
    lock: str
    vma: str | None  # the vm_area_struct it is about, where there is one
    flags: tuple[str, ...]  # names of its vm_flags, VM_READ first
    evidence: tuple[Evidence, ...]
    dumps: tuple[Hexdump, ...]
    by_hand: tuple[HandCheck, ...]
    benign_causes: tuple[str, ...]
    attack: tuple[Technique, ...]

    @property
    def process(self) -> str:
        """The process it is about, in words."""
        if not self.pid and not self.comm and self.evidence and self.evidence[0].view == "kernel code":
            return "the kernel"
        return f"pid {self.pid} ({self.comm})" if self.pid or self.comm else "no process named"

    def strongest(self, most: int) -> list[Evidence]:
        """At most ``most`` pieces of evidence, those that convince most: what made the rule speak, then one of each
        further record, those first that are kept farthest from what was changed."""
        rest, chosen = list(self.evidence[1:]), list(self.evidence[:1])
        while rest and len(chosen) < most:
            seen = [item.view for item in chosen]
            best = min(rest, key=lambda item: (seen.count(item.view), _weight(item.view)))
            rest.remove(best)
            chosen.append(best)
        return chosen

    def _repr_html_(self) -> str:
        """What is wrong, where, and the strongest evidence, for notebooks."""
        where = "" if self.start is None else f", {self.start}–{self.end}"
        seen = "".join(
            f"<li>{escaped(item.what)} <em>({escaped(item.view)})</em></li>" for item in self.strongest(_SHOWN)
        )
        return (
            f"<div><p><strong>{escaped(self.severity.upper())} {escaped(self.rule)}</strong>: {escaped(self.title)}<br>"
            f"{escaped(self.process + where)}, confidence {escaped(self.confidence)}</p><ul>{seen}</ul></div>"
        )


def _weight(view: str) -> int:
    return _WEIGHT.index(view) if view in _WEIGHT else len(_WEIGHT)
