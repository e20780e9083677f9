"""Scans stretches: reads their pages, asks YARA, counts bytes, lists strings. Runs in processes of its own."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vmaforensics.image.joined import join

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
        self._zeros: tuple[int, list[RuleHits], str] = (0, [], "")  # what was found in so many of them
        self._patterns = _patterns(settings.strings) if settings.strings else ()
        if settings.rules is not None:
            import yara_x

            self._scanner = yara_x.Scanner(yara_x.Rules.deserialize_from(io.BytesIO(settings.rules)))
            self._scanner.set_timeout(settings.timeout)
            self._scanner.max_matches_per_pattern(settings.most_matches)

    def scan(self, part: slice) -> Iterator[Scanned]:
        """Scan some of the stretches. Those that found nothing and lack nothing are left out."""
        stretches, arch = self._stretches.take(part), self._kernel.arch
        first, stop = int(stretches.first[0]), int((stretches.first + stretches.count).max())
        pages = self._pages.take(slice(first, stop))
        # What is not there is read from where no memory is: zeros.
        pas = np.where(pages.held, arch.bytes_of(pages.pfn), _NOWHERE)
        starts = stretches.first - first
        bounds = np.stack([starts, starts + stretches.count], axis=1)
        gaps = np.concatenate([np.zeros(1, np.int64), np.cumsum(~pages.held)])
        empty = (gaps[bounds[:, 1]] - gaps[bounds[:, 0]]).tolist()
        joined = join(self._kernel.memory, pas, arch.page_size, bounds)
        for number, gap in zip(range(part.start, part.stop), empty, strict=True):
            raw, lacking, zero = next(joined)
            found = Scanned(stretch=number, missing=lacking - gap)
            if zero:
                found.rules, found.problem = self._of_zeros(raw)
            elif raw:
                self._look(found, raw)
            del raw  # its memory is still in the caches: the next is to have it
            if found.rules or found.missing or found.problem or self._patterns:
                yield found

    def _of_zeros(self, raw: bytes) -> tuple[list[RuleHits], str]:
        """What rules say of so many zeros, which they are asked once."""
        if self._zeros[0] != len(raw):
            self._zeros = (len(raw), *self._matches(raw))
        return self._zeros[1:]

    def _matches(self, raw: bytes) -> tuple[list[RuleHits], str]:
        """The rules that match, or why that is not known."""
        if self._scanner is None:
            return [], ""
        try:
            return [_rule_hits(rule, raw) for rule in self._scanner.scan(raw).matching_rules], ""
        except Exception as error:  # a time-out, or what the library makes of it: costs this stretch alone
            return [], f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

    def _look(self, found: Scanned, raw: bytes) -> None:
        found.rules, found.problem = self._matches(raw)
        if self._patterns:
            found.entropy = entropy(np.frombuffer(raw, np.uint8))
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
