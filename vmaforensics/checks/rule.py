"""A rule of cross-checking: everything there is to say of it, in one record.

A rule is a module of a chapter of ``checks/``, found by :mod:`vmaforensics.checks.registry`. It has

* a docstring, the long form: what exactly is compared, and which kernel functions guarantee it;
* ``RULE``, its record;
* ``check(context)``, which yields a finding for each address space that breaks the rule.

What several rules of a chapter share is a module without ``RULE``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.structures.lock import Lock
from vmaforensics.views.view import View


class Severity(StrEnum):
    """How much a finding matters, highest first."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 for the highest."""
        return list(Severity).index(self)

    @property
    def meaning(self) -> str:
        """What a finding of this severity is, for people."""
        return (
            "a state that gives a program the kernel's own power",
            "records contradict each other in a way the kernel never leaves at rest",
            "numbers or records do not add up; weaker than a plain contradiction",
            "unusual, and seen now and then on healthy machines",
            "legal and worth knowing when you look at that process",
        )[self.rank]


class Confidence(StrEnum):
    """How sure it is that the records disagree for the reason the finding gives."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Part(StrEnum):
    """What becomes of a finding beside others about the same address space; see ``weigh.join``."""

    ALONE = "alone"  # stays a finding of its own
    CAUSE = "cause"  # takes up the evidence of others: causes of a higher rank, traces, what is left behind
    TRACE = "trace"  # what a change leaves all over an address space; evidence of a cause, if there is one
    LEFT_BEHIND = "left behind"  # what hidden memory leaves behind; evidence of a cause that hides memory


# Innocent causes that most rules have.
SMEAR = "the image was taken while the machine ran, and these records were read at different moments"
BUSY = "the memory map was being changed at that moment (the mmap lock says whether it was held)"
BUG = "memory corruption by a kernel bug or by faulty hardware"

HIDING = ("T1014", "T1564")  # hidden by editing kernel objects: Rootkit; Hide Artifacts

INDICES = (View.LIST, View.RBTREE, View.MAPLE)

# States of the mmap lock that excuse a finding. Records that LAG also differ while a munmap that gave its lock back
# down to a read lock still unmaps (5.10 to 7.x), or while a stack grows under the read lock (5.10).
CHANGING = (Lock.WRITE,)
LAGS = (Lock.WRITE, Lock.READ)


class Apart(NamedTuple):
    """An operation that, while a task is in the middle of it, leaves records apart that a rule compares."""

    operation: Operation
    most: int  # pages, tables or other records that one task can leave so, by what the rule counts (Finding.apart)


# What a task may be in the middle of while it holds the mmap lock. In the order of how much they change.
FORKS = (Operation.FORK, Operation.NEW_TASK)  # dup_mmap is part of copy_process in 6.12
INSERTS = (*FORKS, Operation.MAP, Operation.ADJUST)
REINDEXES = (*INSERTS, Operation.MOVE, Operation.UNMAP, Operation.GROW, Operation.EXEC)
CHANGES = (*REINDEXES, Operation.PROTECT, Operation.EXIT, Operation.COLLAPSE)
# What goes on when the write lock has been given back down to a read lock; stacks grew under that up to 6.4.
GOES_ON_READING = (Operation.UNMAP, Operation.MAP, Operation.MOVE, Operation.GROW)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule of cross-checking. ``id`` never changes once published; one that is given up is not used again."""

    id: str
    title: str  # what is wrong, in general
    severity: Severity
    confidence: Confidence = Confidence.HIGH
    why: str  # why it matters
    benign: tuple[str, ...] = (SMEAR, BUSY, BUG)  # innocent causes
    attack: tuple[str, ...] = HIDING  # ids of the ATT&CK techniques it is consistent with

    compares: str  # which records with which
    views: tuple[View, ...]  # whose records take part
    transient: str  # legal states of a running kernel that look the same

    # How to check it by hand. ``by_hand`` are lines in general, for crash or drgn with a vmlinux of that kernel, each
    # under the tool's name; PID, MM, VMA, NODE, PAGE, TASK and ADDRESS stand for what a finding names. ``steps`` name
    # the templates of report/document/hand_lines.py that are filled in for a finding, in order.
    by_hand: tuple[str, ...]
    steps: tuple[str, ...]
    found_is_subject: bool = True  # may what its evidence found be the address of a VMA that the finding is about?

    # How its findings are joined with others about the same address space. Of two causes, the one of the lower
    # ``rank`` takes up the other; evidence is taken up in order of rank.
    part: Part = Part.ALONE
    rank: int
    hides: bool = False  # a cause that hides memory: takes up what is left behind
    count: bool = False  # compares counts, and often cannot name a range
    explains_counts: bool = False  # makes the counts of an address space look wrong
    excused_by: tuple[Lock, ...] = CHANGING
    changed_by: tuple[Operation, ...] = CHANGES  # operations that leave its records apart while they hold that lock
    in_flight: tuple[Apart, ...] = ()  # those that leave them apart whatever the mmap lock
