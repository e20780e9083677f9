"""Scans stretches: reads their pages, asks YARA, counts bytes, lists strings. Runs in processes of its own."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.scan.plan import PlanPages, Stretches

SHOWN = 32  # bytes of a match that are kept
_NOWHERE = np.uint64(1 << 63)
_MOST_HITS = 1 << 12  # matches kept of one rule in one stretch


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to scan."""

    rules: bytes | None = None  # serialized
    timeout: int = 60  # seconds that one stretch may take
    most_matches: int = 100  # of one pattern in one stretch
    strings: int = 0  # least length of strings that are listed; 0: none are
    most_strings: int = 256  # listed of one stretch


class Hit(NamedTuple):
    """A place that a pattern matched."""

    pattern: str
    offset: int  # in the stretch
    length: int
    data: bytes


class RuleHits(NamedTuple):
    """A rule that matched a stretch."""

    rule: str
    namespace: str
    tags: tuple[str, ...]
    meta: tuple[tuple[str, object], ...]
    hits: list[Hit]


@dataclass(slots=True, kw_only=True)
class Scanned:
    """What was found in one stretch."""

    stretch: int
    rules: list[RuleHits] = field(default_factory=list)
    missing: int = 0  # pages that are not in the image
    problem: str = ""
    entropy: float = 0.0  # bits a byte
    strings: list[tuple[int, str, str]] = field(default_factory=list)  # offset, encoding, text
    more_strings: int = 0


class Worker:
    """Scans stretches of one plan."""

    def __init__(self, kernel: Kernel, stretches: Stretches, pages: PlanPages, settings: Settings) -> None:
        self._kernel, self._stretches, self._pages, self._settings = kernel, stretches, pages, settings
        self._scanner: Any = None
        self._patterns = _patterns(settings.strings) if settings.strings else ()
        if settings.rules is not None:
            import yara_x

            self._scanner = yara_x.Scanner(yara_x.Rules.deserialize_from(io.BytesIO(settings.rules)))
            self._scanner.set_timeout(settings.timeout)
            self._scanner.max_matches_per_pattern(settings.most_matches)

    def scan(self, part: slice) -> list[Scanned]:
        """Scan some of the stretches. Those that found nothing and lack nothing are left out."""
        return [found for found in self._all(part) if found.rules or found.missing or found.problem or self._patterns]

    def _all(self, part: slice) -> Iterator[Scanned]:
        stretches, arch = self._stretches, self._kernel.arch
        for number in range(part.start, part.stop):
            first = int(stretches.first[number])
            pages = self._pages.take(slice(first, first + int(stretches.count[number])))
            # What is not there is read from where no memory is: zeros.
            pas = np.where(pages.held, arch.bytes_of(pages.pfn), _NOWHERE)
            raw, ok = self._kernel.memory.join(pas, arch.page_size)
            found = Scanned(stretch=number, missing=int((~ok & pages.held).sum()))
            if ok.any():
                self._look(found, raw)
                if self._patterns:
                    found.entropy = entropy(np.frombuffer(raw, np.uint8))
            yield found

    def _look(self, found: Scanned, raw: bytes) -> None:
        if self._scanner is not None:
            try:
                found.rules += [_rule_hits(rule, raw) for rule in self._scanner.scan(raw).matching_rules]
            except Exception as error:  # a time-out, or what the library makes of it: costs this stretch alone
                found.problem = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        for encoding, pattern in self._patterns:
            for match in pattern.finditer(raw):
                if len(found.strings) < self._settings.most_strings:
                    found.strings.append((match.start(), encoding, match[0].decode(encoding)))
                else:
                    found.more_strings += 1


def _rule_hits(rule: Any, raw: bytes) -> RuleHits:  # noqa: ANN401 - yara_x is optional
    hits = [
        Hit(pattern.identifier, match.offset, match.length, raw[match.offset : match.offset + min(match.length, SHOWN)])
        for pattern in rule.patterns
        for match in pattern.matches
    ]
    hits.sort(key=lambda hit: (hit.offset, hit.pattern))
    return RuleHits(rule.identifier, rule.namespace, tuple(rule.tags), tuple(rule.metadata), hits[:_MOST_HITS])


def _patterns(least: int) -> tuple[tuple[str, re.Pattern[bytes]], ...]:
    """What strings are: characters of ASCII that can be printed, as bytes and in UTF-16."""
    return (
        ("ascii", re.compile(rb"[\x20-\x7e\t]{%d,4096}" % least)),
        ("utf-16-le", re.compile(rb"(?:[\x20-\x7e\t]\x00){%d,4096}" % least)),
    )


def entropy(data: np.ndarray[Any, np.dtype[np.uint8]]) -> float:
    """Shannon's entropy of bytes, in bits a byte.

    >>> entropy(np.arange(256, dtype=np.uint8))
    8.0
    """
    counts = np.bincount(data.reshape(-1), minlength=256)
    share = counts[counts > 0] / max(data.size, 1)
    return float(-(share * np.log2(share)).sum()) if len(share) else 0.0
