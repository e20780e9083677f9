"""The verdict in plain words: what an analyst reads in the first ten seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmaforensics.report.formats.html.amounts import short
from vmaforensics.words.amounts import counted, plural

if TYPE_CHECKING:
    from vmaforensics.report.document.document import Document
    from vmaforensics.report.document.findings import Finding

SEVERITIES = ("critical", "high", "medium", "low", "info")
_NAMED, _CHARACTERS = 3, 48  # processes named in the sentence, and of a name
_USER_PAGES = 8  # a bit of makedumpfile's dump level: pages of programs are left out; makedumpfile(8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The verdict strip. ``tone`` is a severity, ``clear`` or ``unknown``."""

    tone: str
    headline: str
    summary: str  # the counts and whom they are about, a sentence
    meaning: str
    limits: str
    counts: tuple[tuple[str, int], ...]


def overview(document: Document) -> Overview:
    """What the findings of ``document``, and what is missing from it, come to."""
    counts = {name: sum(finding.severity == name for finding in document.findings) for name in SEVERITIES}
    tone, headline, meaning = _judged(document, counts)
    crash = document.crash
    if crash is not None and crash.death is not None:
        headline = "This kernel crashed."
        tone = tone if tone in SEVERITIES else "medium"
    return Overview(
        tone=tone,
        headline=headline,
        summary=_summary(document, counts) if crash is None else f"{crash.verdict} {_summary(document, counts)}",
        meaning=meaning,
        limits=_limits(document),
        counts=tuple(counts.items()),
    )


def _judged(document: Document, counts: dict[str, int]) -> tuple[str, str, str]:
    """Tone, headline, and what it means."""
    for worst in ("critical", "high"):
        if counts[worst]:
            return (
                worst,
                "This memory contradicts itself.",
                (
                    "Records that the kernel keeps in step do not agree, and its own code does not leave them so. "
                    "Before you trust any list of this machine’s memory, read the findings; each names what would "
                    "explain it innocently."
                ),
            )
    if counts["medium"]:
        return (
            "medium",
            "Some records do not add up.",
            (
                "This is weaker than a plain contradiction: the image may have been taken while the memory map was "
                "changing, or something changed it behind the kernel’s back. The findings say which is likelier."
            ),
        )
    if not any(process.kind == "user" for process in document.processes):
        return (
            "unknown",
            "No process could be examined.",
            ("Without a process there is nothing to compare, so this report neither clears nor accuses the machine."),
        )
    if document.not_assessed:
        return (
            "unknown",
            "What could be read agrees.",
            (
                "No record contradicts another, as far as they could be read. Where something could not be assessed, a "
                "contradiction would have gone unseen."
            ),
        )
    return (
        "clear",
        "The records agree.",
        (
            "Every record of every memory map that these views read tells the same story. This speaks of memory maps "
            "only: it does not clear the programs that lie in them."
        ),
    )


def _summary(document: Document, counts: dict[str, int]) -> str:
    """Counts and names, as a sentence."""
    user = counted(sum(process.kind == "user" for process in document.processes), "process", "es")
    if not document.findings:
        return f"No finding among {user}."
    number = sum(counts.values())
    kinds = [f"{counts[name]:,} {name}" for name in SEVERITIES if counts[name]]
    kinds = [*kinds[:-2], " and ".join(kinds[-2:])]
    sentence = f"{', '.join(kinds)} {plural(number, 'finding')} among {user}"
    serious = [finding for finding in document.findings if finding.severity in SEVERITIES[:3]]
    if not serious:
        return f"{sentence}, none of them a contradiction."
    who = list(dict.fromkeys(_who(finding) for finding in serious))
    rest = f" and {len(who) - _NAMED:,} more" if len(who) > _NAMED else ""
    return f"{sentence}. Look at {', '.join(who[:_NAMED])}{rest}."


def _who(finding: Finding) -> str:
    return (
        f"pid\u00a0{finding.pid} ({short(finding.comm, _CHARACTERS)})" if finding.pid or finding.comm else "the kernel"
    )


def _limits(document: Document) -> str:
    """What bounds the verdict: pages that the file does not hold, and things not assessed."""
    pages, parts = document.provenance.coverage, []
    if pages.absent and pages.ram > 0:
        share = 100 * pages.absent / pages.ram
        part = f"{min(share, 99.9) if pages.absent < pages.ram else 100:.3g} % of RAM is not in the file"
        level = document.provenance.file.details.get("dump level", "")
        if level.isascii() and level.isdigit() and len(level) < 4 and int(level) & _USER_PAGES:
            part += f" (dump level {level} leaves out the pages of programs)"
        parts.append(part)
    if document.not_assessed:
        parts.append(f"{counted(len(document.not_assessed), 'thing')} could not be assessed")
    return "Limits: " + "; ".join(parts) + "." if parts else ""
