"""Findings of the checks as parts of the document, with what the image has to be read for."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from vmaforensics.report.document.attack import TECHNIQUES
from vmaforensics.report.document.by_hand import MOST as MOST_BY_HAND
from vmaforensics.report.document.by_hand import FactFinder, hand_checks
from vmaforensics.report.document.dumps import hexdumps
from vmaforensics.report.document.findings import Evidence, Finding, Technique
from vmaforensics.report.document.subjects import subjects
from vmaforensics.views.vmas.flag_names import bit_names, flags_of
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from vmaforensics.analysis import Analysis
    from vmaforensics.checks.finding import Finding as CheckFinding


def finding_parts(analysis: Analysis, findings: list[CheckFinding], *, contents: bool) -> list[Finding]:
    """``findings``, most severe first, as parts of the document. Without ``contents`` no byte of a process's own
    memory is read."""
    kernel, views = analysis.kernel, analysis.views
    about = subjects(views, findings)
    dumps = hexdumps(kernel, views, findings, about, contents=contents)
    finder, bits = FactFinder(kernel, views), bit_names(kernel)
    parts = []
    for place, (finding, subject) in enumerate(zip(findings, about, strict=True)):
        single = len(subject.vmas) == 1
        parts.append(
            msgspec.structs.replace(
                finding_part(finding),
                vma=hex(subject.vmas.vma[0]) if single else None,
                flags=tuple(flags_of(bits, int(subject.vmas.flags[0]))) if single else (),
                dumps=dumps[place] if place < len(dumps) else (),
                by_hand=hand_checks(finder.facts(finding, subject), finding.rule) if place < MOST_BY_HAND else (),
            )
        )
    return parts


def finding_part(finding: CheckFinding) -> Finding:
    """A finding as a part of the document, without what the image has to be read for."""
    key = f"{finding.rule.id}:{finding.mm:x}:{finding.start or 0:x}"
    return Finding(
        id=hashlib.sha256(key.encode()).hexdigest()[:12],
        rule=finding.rule.id,
        rule_title=finding.rule.title,
        severity=finding.severity.value,
        confidence=finding.confidence.value,
        pid=finding.pid,
        comm=printable(finding.comm),
        mm=hex(finding.mm),
        start=None if finding.start is None else hex(finding.start),
        end=None if finding.end is None else hex(finding.end),
        title=printable(finding.title),
        why=finding.rule.why,
        lock=finding.lock,
        vma=None,
        flags=(),
        dumps=(),
        by_hand=(),
        evidence=tuple(
            Evidence(
                what=printable(item.what),
                view=item.view,
                address=hex(item.address) if item.address else None,
                found=item.found,
                expected=item.expected,
            )
            for item in finding.evidence
        ),
        benign_causes=finding.benign,
        attack=tuple(Technique(id=name, name=TECHNIQUES[name]) for name in finding.rule.attack),
    )
