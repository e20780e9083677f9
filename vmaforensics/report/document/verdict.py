"""The verdict: the outcome of a report in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.words.amounts import counted, plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.report.document.findings import Finding
    from vmaforensics.report.document.parts import NotAssessed, Process

SEVERITIES = ("critical", "high", "medium", "low", "info")
SERIOUS = SEVERITIES[:3]
_NAMED = 4  # processes


def verdict(processes: Sequence[Process], findings: Sequence[Finding], not_assessed: Sequence[NotAssessed]) -> str:
    """How many findings of which severity, in which processes; and whether anything could not be assessed."""
    counts = {name: sum(finding.severity == name for finding in findings) for name in SEVERITIES}
    serious = [finding for finding in findings if finding.severity in SERIOUS]
    user = counted(sum(process.kind == "user" for process in processes), "process", "es")
    bounds = f"; {counted(len(not_assessed), 'thing')} could not be assessed" if not_assessed else ""
    if not serious:
        minor = sum(counts.values())
        rest = f" ({counted(minor, 'minor finding')})" if minor else ""
        if bounds:
            return f"What could be read of {user} agrees{rest}{bounds}."
        return f"The records of {user} {'agrees' if user == '1 process' else 'agree'}{rest}."
    amounts = ", ".join(f"{counts[name]} {name}" for name in SEVERITIES if counts[name])
    named = sorted({(finding.pid, finding.comm) for finding in serious if finding.pid or finding.comm})
    who = [f"pid {pid} ({comm})" for pid, comm in named[:_NAMED]] + (["…"] if len(named) > _NAMED else [])
    names = f": {', '.join(who)}" if who else ""  # what is broken may belong to no process that is known
    number = sum(counts.values())
    return f"{amounts} {plural(number, 'finding')} among {user}{names}{bounds}."
