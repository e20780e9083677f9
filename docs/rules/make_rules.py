"""Writes the page of the rules, docs/rules/README.md, to stdout; `make rules` keeps it.

Each section is made of the record of a rule and of the docstring of its module (vmaforensics/checks/).
"""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING

from vmaforensics.checks.registry import CHAPTERS, rule_modules
from vmaforensics.checks.rule import BUG, BUSY, LAGS, SMEAR, Part, Severity
from vmaforensics.report.document.attack import TECHNIQUES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmaforensics.checks.registry import RuleModule
    from vmaforensics.checks.rule import Rule

_WIDTH = 120

_INTRODUCTION = """\
# Rules

Made by `make rules` from the rules themselves, one file each in `vmaforensics/checks/`; do not edit it by hand. An id
never changes; a rule that is given up leaves its id unused.

All have been tried on the kernels of the README: on clean images, where nothing ranks above low, and on edited ones
([detection.md](../detection.md)).

**Confidence** is high unless a section says otherwise. It is how sure the tool is that the records disagree for the
reason given, not how sure it is of an attack.

**Innocent causes.** Most rules have these three; a section lists others:

{causes}

**States a kernel passes through.** A VMA operation changes one record after the other, under the mmap lock. So the
state of that lock is read first (`lock_states` in `views/processes/mms.py`: `mmap_lock.count`, `mmap_sem.count` or, on
PREEMPT_RT, `mmap_lock.rwbase.readers`) and each finding is weighed by it (`weigh` in `checks/weigh.py`):

| lock | what happens to a finding about this `mm_struct` |
|---|---|
| free | stays as it is |
| read-held | stays as it is, but for rules whose records lag behind, which become LOW with low confidence: {lags}. A \
`munmap` that gave its write lock back down to a read lock has taken the VMAs out of the index, and lowers `total_vm` \
later |
| write-held | becomes LOW with low confidence; INFO stays INFO |
| unknown (not in the dump) | stays as it is |

A lock excuses only while somebody works under it: where the stacks of the tasks of an address space can be unwound, one
of them, or the task that the lock names as its holder, has to be in the middle of a change of the map; for a read-held
lock, of one that goes on when the write lock has been given back down. A task that waits in a system call, a page
fault, or a lock word that was only written, lowers nothing.

**What tasks were in the middle of.** Most records that lie apart on a busy machine are left so by a task that was on a
CPU, preempted, or asleep in the middle of an operation. Their stacks are unwound (`views/operations`; only frames that
are proven count) and the operations named. A rule's section lists those that legally leave its records apart, and how
many pages, tables or records one task can leave. A finding about an address space that such a task works on, and about
no more than that, is INFO, with the operation and its stack as evidence. What is done under a spin lock is half done on
a CPU only. Address spaces that no task has (in `exit_mmap`, filled by `execve` or `fork`) are no contradiction: every
allocated `mm_struct` is read, and its page-table entries are counted with the others'.

A state at rest that is legal is no finding: VMAs that could be merged and are not, VMAs without pages, `locked_vm`
above the sum of locked VMAs, several processes with one `mm_struct`.

**Absence.** A VMA is called missing only from a view of that address space that was read whole. A page that is not in
the dump makes the view incomplete (`?` behind its number in the report) and stands under *Not assessed*.

**One cause, one finding.** A change leaves traces in several records. In each address space, findings about one change
are joined (`join` in `checks/weigh.py`):

{joining}

At most 16 wrong rows of one kind are listed one by one; the rest is counted.

**By hand.** Each piece of evidence carries the kernel virtual address of the word. drgn reads it without any debug
information, from an image that holds the kernel's page tables:

```python
>>> prog.read_u32(0xffff8bfcc289e8e8)   # map_count of the example in the README
28
```

(Done with drgn 0.3.0 on the bundled sample. It refuses kdump files written by QEMU, which name no architecture.) The
lines in the sections below need a vmlinux with debug information of that very kernel; they follow drgn's and crash's
own documentation and are not run by the tests of this project. `PID`, `MM`, `VMA`, `NODE`, `PAGE`, `TASK` and `ADDRESS`
stand for what a finding names.
"""


def page() -> str:
    """The page as text."""
    modules = rule_modules()
    parts = [_introduction([module.rule for module in modules]), _contents(modules)]
    parts += [_section(module) for module in modules]
    return "\n".join(parts)


def _introduction(rules: list[Rule]) -> str:
    return _INTRODUCTION.format(
        causes=_items((SMEAR, BUSY, BUG)),
        lags=", ".join(rule.id for rule in rules if rule.excused_by == LAGS),
        joining=_items(_joining(rules)),
    )


def _joining(rules: Iterable[Rule]) -> Iterator[str]:
    ranked = sorted(rules, key=lambda rule: rule.rank)

    def ids(part: Part) -> str:
        return ", ".join(rule.id for rule in ranked if rule.part is part)

    yield (
        f"*causes*, the first of which takes up the evidence of the others whose ranges overlap its own: "
        f"{ids(Part.CAUSE)};"
    )
    yield f"*traces*, evidence of the cause next to them, or else of the first: {ids(Part.TRACE)};"
    hiding = ", ".join(rule.id for rule in ranked if rule.hides)
    yield f"*what hidden memory leaves behind*, {ids(Part.LEFT_BEHIND)}: evidence of the first of {hiding};"
    yield f"all others stand alone: {ids(Part.ALONE)}."


def _contents(modules: Iterable[RuleModule]) -> str:
    lines = ["| chapter | rules |", "|---|---|"]
    for chapter in CHAPTERS:
        ids = [module.rule.id for module in modules if module.chapter == chapter]
        lines.append(f"| {chapter.replace('_', ' ')} | {', '.join(f'[{name}](#{name.lower()})' for name in ids)} |")
    return "\n".join(lines) + "\n"


def _sentence(title: str) -> str:
    """A title as it begins a sentence; the name of a member stays as it is."""
    word = title.split()[0]
    return title if "_" in word else title[:1].upper() + title[1:]


def _section(module: RuleModule) -> str:
    rule = module.rule
    weight = f"Severity {rule.severity.value}"
    if rule.confidence.value != "high":
        weight += f", confidence {rule.confidence.value}"
    parts = [
        f"## {rule.id}",
        _filled(f"**{_sentence(rule.title)}.** {weight}."),
        _filled(rule.why),
        *module.doc.split("\n\n")[1:],
        *_innocent(rule),
        _filled(f"*States that look the same:* {_ended(rule.transient)}"),
        *_lock(rule),
        *_in_flight(rule),
    ]
    if rule.attack:
        names = ", ".join(f"{name} ({TECHNIQUES[name]})" for name in rule.attack)
        parts.append(_filled(f"*Consistent with (MITRE ATT&CK):* {names}."))
    parts.append("*By hand:*\n\n```\n" + "\n".join(rule.by_hand) + "\n```")
    parts.append(f"*Code:* `{module.path}`")
    return "\n\n".join(parts) + "\n"


def _innocent(rule: Rule) -> Iterator[str]:
    if rule.benign != (SMEAR, BUSY, BUG):
        yield f"*Innocent causes:*\n\n{_items(rule.benign)}"


def _lock(rule: Rule) -> Iterator[str]:
    if rule.excused_by == LAGS and rule.severity.rank < Severity.LOW.rank:
        yield "*Read lock held:* low, with low confidence."


def _in_flight(rule: Rule) -> Iterator[str]:
    if rule.in_flight:
        items = (f"{apart.operation.text}{_at_most(apart.most)}" for apart in rule.in_flight)
        yield f"*Operations that leave these records apart, and how much each task can:*\n\n{_items(items)}"


def _at_most(most: int) -> str:
    return f": {most}" if most > 1 else ""


def _items(texts: Iterable[str]) -> str:
    return "\n".join(_wrapped(text, indent=("* ", "  ")) for text in texts)


def _filled(text: str) -> str:
    return _wrapped(text)


def _wrapped(text: str, indent: tuple[str, str] = ("", "")) -> str:
    """``text`` in lines of at most 120 columns; no word is broken. ``indent`` is of the first line and of others."""
    first, others = indent
    return textwrap.fill(
        text, _WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False, break_long_words=False
    )


def _ended(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


if __name__ == "__main__":
    sys.stdout.write(page())
