"""What a complaint leads to, as text for people: first the words, then all else there is to say of the complaint."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

from vmaforensics.crash.pointers_text import fault_sentences, register_sentences
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vmaforensics.crash.document import ComplaintPart
    from vmaforensics.crash.trail.parts import FindingPart, WordPart

WIDTH: Final = 100
LABEL: Final = 12
_INDENT: Final = 16
_MOST_WORDS: Final = 4  # on the first screen
_MOST_EVIDENCE: Final = 3
_OF_WORDS: Final = 3  # sentences why


def lead(complaints: Sequence[ComplaintPart]) -> ComplaintPart | None:
    """The complaint whose words stand on top: that which led to the end, else the first that leads to any.

    One all of whose words are only possible comes after one with a word that is at least likely.
    """
    led = [complaint for complaint in complaints if complaint.words]
    led = [complaint for complaint in led if any(word.sure != "possible" for word in complaint.words)] or led
    return next((complaint for complaint in led if complaint.ended), led[0] if led else None)


def first_words(complaints: Sequence[ComplaintPart]) -> Iterator[str]:
    """The rows of the head of the page that name what is broken."""
    complaint = lead(complaints)
    if complaint is None:
        return
    if not complaint.ended:
        yield from row("COMPLAINT", f"{complaint.text} ({complaint.time} s after boot)")
    several = len(complaint.words) > 1 and all(word.sure == "possible" for word in complaint.words)
    if several:
        yield from row("BROKEN", f"one of {counted(len(complaint.words), 'word')}; which of them, is not known:")
    for place, word in enumerate(complaint.words[:_MOST_WORDS]):
        yield from row("" if place or several else "BROKEN", word_line(word))
        if not several or place == len(complaint.words[:_MOST_WORDS]) - 1:
            for sentence in word.why[:_OF_WORDS]:
                yield from row("", f"- {sentence}", more="  ")
    for finding in complaint.findings[:1]:
        yield from row("REPORT SAYS", finding_line(finding))


def word_line(word: WordPart) -> str:
    """A word, where it lies, what it holds, what it should."""
    places = [place for place in (word.address, word.physical and f"physical {word.physical}") if place]
    told = word.what + (f", at {' = '.join(places)}" if places else "")
    told += f": holds {word.found}" if word.found[:1].isdigit() else f": {word.found}" if word.found else ""
    told += f", should be {word.expected}" if word.expected else ""
    return told + ("" if word.sure == "certain" else f" ({word.sure})")


def finding_line(finding: FindingPart) -> str:
    """A finding, and whose."""
    whose = f" of pid {finding.pid} ({finding.comm})" if finding.pid else ""
    return f"{finding.rule} ({finding.severity}): {finding.title}{whose}"


def complaint_lines(complaint: ComplaintPart, *, shown: bool, explained: bool) -> Iterator[str]:
    """All that there is to say beneath a complaint, without its words where they are ``shown`` already, and without
    what it means where another of its kind was ``explained``."""
    if complaint.named:
        told = ", ".join(f"{item.what} {item.value}{' (hashed: no address)' * item.hashed}" for item in complaint.named)
        yield from _beneath(f"names {told}")
    for word in complaint.words if not shown else ():
        yield from _beneath(f"leads to {word_line(word)}")
        for sentence in word.why:
            yield from _beneath(f"  - {sentence}")
    if not complaint.ended:  # else it has sections of its own
        for sentence in [] if complaint.fault is None else fault_sentences(complaint.fault, complaint.words):
            yield from _beneath(sentence)
        if complaint.registers:
            yield from _beneath("its registers lead to, as the memory is by now:")
        for sentence in register_sentences(complaint.registers):
            yield from _beneath(f"  {sentence}")
    for note in complaint.notes:
        yield from _beneath(f"note: {note}")
    for finding in complaint.findings:
        yield from _beneath(f"report says {finding_line(finding)}")
        for item in finding.evidence[:_MOST_EVIDENCE]:
            yield from _beneath(f"  - {item.what}")
    if complaint.meaning is not None and not explained:
        yield from _beneath(f"means: {complaint.meaning.says}")
        yield from _beneath(f"look at: {complaint.meaning.look}")


def row(label: str, text: str, more: str = "") -> list[str]:
    """A labelled line, wrapped; lines that go on begin with ``more``."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"{label:{LABEL}}", subsequent_indent=" " * LABEL + more, break_on_hyphens=False
    ) or [label]


def _beneath(text: str) -> list[str]:
    indent = " " * _INDENT
    return textwrap.wrap(
        text, WIDTH + LABEL, initial_indent=indent, subsequent_indent=f"{indent}  ", break_on_hyphens=False
    )
