"""``vmaforensics explain``: what a rule means, what it compares, and how to check it by hand."""

from __future__ import annotations

import difflib
import sys
import textwrap
from typing import TYPE_CHECKING

from vmaforensics.errors import ExitCode, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from vmaforensics.checks.rule import Rule

_WIDTH = 118


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "explain",
        help="explain a rule: what it compares, innocent causes, how to check it by hand",
        description="Explain a rule by the id that findings carry. Without an id, list all rules.",
    )
    parser.add_argument("rule", metavar="RULE", nargs="?", help="id of a rule, such as VMA-MISSING")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print a rule, or the table of all."""
    from vmaforensics.checks.registry import all_rules

    known = {rule.id: rule for rule in all_rules()}
    if args.rule is None:
        lines = _table(all_rules())
    else:
        rule = known.get(args.rule.strip().upper())
        if rule is None:
            raise UsageError(_unknown(args.rule.strip().upper(), list(known)))
        lines = _rule(rule)
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return ExitCode.OK


def _unknown(name: str, known: list[str]) -> str:
    # A family ("VMA-", "RMAP") is as likely as a slip of the pen.
    near = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    near += [other for other in known if name and name in other and other not in near]
    hint = f"did you mean {', '.join(near[:8])}?" if near else "`vmaforensics explain` lists all rules"
    return f"there is no rule {name}; {hint}"


def _table(rules: tuple[Rule, ...]) -> Iterator[str]:
    wide = max(len(rule.id) for rule in rules)
    yield f"{'rule':{wide}}  {'severity':8}  {'confidence':10}  what is wrong"
    for rule in rules:
        yield f"{rule.id:{wide}}  {rule.severity.value:8}  {rule.confidence.value:10}  {rule.title}"


def _rule(rule: Rule) -> Iterator[str]:
    from vmaforensics.report.document.attack import TECHNIQUES

    yield f"{rule.id}  severity {rule.severity.value}, confidence {rule.confidence.value}"
    yield from _wrapped("", rule.title[:1].upper() + rule.title[1:] + ".")
    yield ""
    yield from _section("why it matters", rule.why)
    yield from _section("what is compared", rule.compares)
    yield from _section("views that take part", ", ".join(view.label for view in rule.views))
    yield from _section("innocent causes", *rule.benign)
    yield from _section("legal states that look the same", rule.transient)
    yield from _section("weighed by the mmap lock", *_weighing(rule))
    if rule.in_flight:
        texts = (f"{apart.operation.text}: {apart.most}" for apart in rule.in_flight)
        yield from _section("operations that leave these records apart, and how much one task can", *texts)
    if rule.attack:
        names = (f"{name} {TECHNIQUES.get(name, '')}".rstrip() for name in rule.attack)
        yield from _section("consistent with (MITRE ATT&CK)", *names)
    yield "by hand, with a vmlinux of that kernel (capitals: what the finding names)"
    yield from (f"  {line}" for line in rule.by_hand)


def _weighing(rule: Rule) -> Iterator[str]:
    from vmaforensics.checks.rule import Severity
    from vmaforensics.views.structures.lock import Lock

    if rule.severity.rank >= Severity.LOW.rank:
        yield f"not: a finding of severity {rule.severity.value} says little enough"
        return
    yield "write-held, and a task in the middle of a change: low, with low confidence"
    if Lock.READ in rule.excused_by:
        yield "read-held, and a task in the middle of a change that goes on so: low, with low confidence"
    else:
        yield "read-held: as it is"
    yield "free or unknown: as it is"


def _section(label: str, *texts: str) -> Iterator[str]:
    yield label
    for text in texts:
        yield from _wrapped("  - " if len(texts) > 1 else "  ", text)
    yield ""


def _wrapped(indent: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=" " * len(indent), break_on_hyphens=False
    )
