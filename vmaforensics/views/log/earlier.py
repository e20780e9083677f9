"""Logs of earlier kernels that memory has kept over a reboot: what ramoops wrote as they died (fs/pstore/ram.c).

A dump of ``dmesg`` is written in parts, the newest first, each with a line of its own before it (``Panic#1 Part1``, the
reason, the how-manieth dump, and the part), and before that the time and whether it is compressed.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.views.log.persistent_ram import read_zones
from vmaforensics.views.log.records import LOG_KERN, NO_CALLER, ON_CPU, Log, LogRecords

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.log.persistent_ram import Zone

_STAMP: Final = re.compile(rb"====(?P<time>\d{1,12})\.\d{1,9}(-(?P<packed>[CD]))?\n")  # ramoops_write_kmsg_hdr
_TITLE: Final = re.compile(rb"(?P<reason>[\w ]{1,32})#(?P<number>\d{1,9}) Part(?P<part>\d{1,9})\n")  # pstore_dump
# "<6>[    0.000000] text", with the caller where the kernel is so configured (info_print_prefix of printk.c).
_LINE: Final = re.compile(
    rb"<(?P<priority>\d{1,4})>\[ *(?P<seconds>\d{1,12})\.(?P<micro>\d{6})\](?:\[ *(?P<caller>[TC]\d{1,9})\])? ?"
)
_MOST_UNPACKED: Final = 1 << 20  # bytes of a part
_MOST_BYTES: Final = 64 << 20  # of all parts
_MOST_LINES: Final = 1 << 17  # of a log
_MOST_LOGS: Final = 64
_WINDOWS: Final = (-15, 15)  # zlib: a raw stream, as kernels write it, or one with a header


class EarlierLog(NamedTuple):
    """What one kernel left."""

    title: str  # reason and number, as "Panic#1"; printable
    physical: int  # where the first of its parts lies
    written: int | None  # seconds since 1970, by the clock of that kernel
    log: Log


class _Part(NamedTuple):
    title: str
    part: int
    physical: int
    written: int | None
    text: bytes
    problem: str | None


def read_earlier(kernel: Kernel) -> list[EarlierLog]:
    """The logs of earlier kernels that are kept, the oldest first; none where nothing is kept."""
    parts, left = [], _MOST_BYTES
    for zone in read_zones(kernel):
        part = _part(zone) if left > 0 else None
        if part is not None:
            left -= len(part.text)
            parts.append(part)
    return _joined(parts)


def _joined(parts: Iterable[_Part]) -> list[EarlierLog]:
    """The parts of each dump joined, that with the highest number first: it is the oldest."""
    dumps: dict[tuple[str, int | None], list[_Part]] = {}
    for part in parts:
        dumps.setdefault((part.title, part.written), []).append(part)
    found = []
    for (title, written), own in list(dumps.items())[:_MOST_LOGS]:
        own.sort(key=lambda part: -part.part)
        problems = [part.problem for part in own if part.problem is not None]
        missing = sorted({*range(1, own[0].part)} - {part.part for part in own})[:_MOST_LOGS]
        problems += [f"part {part} of {title} is not there, or was written over" for part in missing]
        lines = b"".join(part.text for part in own).splitlines(keepends=True)
        if len(lines) > _MOST_LINES:
            problems.append(f"of more than {_MOST_LINES:,} lines of {title}, the last are shown")
        log = _log(lines[-_MOST_LINES:], f"ramoops at {own[0].physical:#x}", tuple(problems))
        found.append(EarlierLog(title, own[0].physical, written, log))
    return sorted(found, key=lambda earlier: (earlier.written is not None, earlier.written or 0, earlier.title))


def _part(zone: Zone) -> _Part | None:
    """What a zone holds; None for what is no log (messages of programs, traces of functions)."""
    stamp = _STAMP.match(zone.data)
    if stamp is None:
        # The console is written as it goes, without a header.
        text = zone.data.strip(b"\0")
        printed = sum(byte >= 32 or byte in (9, 10, 13, 27) for byte in text[:4096])
        is_text = b"\n" in text and printed == len(text[:4096])
        return _Part("console", 1, zone.physical, None, text, None) if is_text else None
    text, problem = zone.data[stamp.end() :], None
    if stamp["packed"] == b"C":
        unpacked = _unpacked(text)
        problem = None if unpacked is not None else f"what lies at {zone.physical:#x} is compressed in a way not known"
        text = b"" if unpacked is None else unpacked
    title = _TITLE.match(text)
    written = int(stamp["time"])
    if title is None:
        return _Part("dump", 1, zone.physical, written, text, problem)
    name = f"{title['reason'].decode()}#{int(title['number'])}"
    return _Part(name, int(title["part"]), zone.physical, written, text[title.end() :], problem)


def _unpacked(raw: bytes) -> bytes | None:
    """What ``raw`` was before it was deflated; None where it was packed in another way."""
    for window in _WINDOWS:
        try:
            text = zlib.decompressobj(window).decompress(raw, _MOST_UNPACKED)
        except zlib.error:
            continue
        if text:
            return text
    return None


def _log(lines: Sequence[bytes], source: str, problems: tuple[str, ...]) -> Log:
    """The records of lines as dumps have them; a line without a prefix has the time of the one before it."""
    rows: list[tuple[int, int, int, int, int]] = []  # begin, size, time, priority, caller
    at = time = 0
    priority, caller = 6, NO_CALLER
    for line in lines:
        found = _LINE.match(line)
        skip = 0
        if found is not None:
            skip, priority = found.end(), int(found["priority"])
            time = (int(found["seconds"]) * 10**6 + int(found["micro"])) * 1000
            caller = _caller(found["caller"])
        rows.append((at + skip, len(line.rstrip(b"\r\n")) - skip, time, priority, caller))
        at += len(line)
    table = np.array(rows, np.int64).reshape(-1, 5)
    level, facility = table[:, 3] & 7, np.minimum(table[:, 3] >> 3, 255)
    records = LogRecords.of(
        seq=np.arange(len(table)),
        time=table[:, 2],
        level=level,
        facility=facility if len(table) else np.full(0, LOG_KERN),
        caller=table[:, 4],
        begin=table[:, 0],
        size=np.maximum(table[:, 1], 0),
    )
    return Log(records=records, data=b"".join(lines), source=source, problems=problems)


def _caller(text: bytes | None) -> int:
    if text is None:
        return NO_CALLER
    number = int(text[1:]) & (ON_CPU - 1)
    return number | ON_CPU if text[:1] == b"C" else number
