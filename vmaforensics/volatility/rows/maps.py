# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""Rows for volatility3's grids: ``/proc/PID/maps``, with the bytes of the regions in files."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3.framework.renderers import format_hints

from vmaforensics.errors import VmaForensicsError
from vmaforensics.volatility.rows.regions import NOT_APPLICABLE, Row, processes, warn_of_missing
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from vmaforensics.volatility.rows.files import Output
    from vmaforensics.volatility.rows.session import Session

log = logging.getLogger(__name__)

# Those of linux.proc.Maps.
COLUMNS: list[tuple[str, type]] = [
    ("PID", int),
    ("Process", str),
    ("Start", format_hints.Hex),
    ("End", format_hints.Hex),
    ("Flags", str),
    ("PgOff", format_hints.Hex),
    ("Major", int),
    ("Minor", int),
    ("Inode", int),
    ("File Path", str),
    ("File output", str),
]
MOST_BYTES = 1 << 30  # of a region that is dumped, unless the user says more

_NAME_AT = 73  # show_vma_header_prefix pads to here
_PREFIX = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+) ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of ``/proc/PID/maps``."""

    start: int
    end: int
    perms: str
    pgoff: int
    major: int
    minor: int
    inode: int
    name: bytes

    @classmethod
    def of(cls, line: bytes) -> Line:
        """The line as the kernel prints it, newline included."""
        found = _PREFIX.match(line)
        assert found is not None
        start, end, pgoff, major, minor = (int(found[group], 16) for group in (1, 2, 4, 5, 6))
        name = line[max(_NAME_AT, found.end() + 1) : -1]
        return cls(
            start=start,
            end=end,
            perms=found[3].decode(),
            pgoff=pgoff,
            major=major,
            minor=minor,
            inode=int(found[7]),
            name=name,
        )


def map_rows(
    session: Session,
    pids: Collection[int] = (),
    addresses: Collection[int] = (),
    output: Output | None = None,
    most: int = MOST_BYTES,
) -> Iterator[Row]:
    """One row of :data:`COLUMNS` per line of ``/proc/PID/maps``; only those that hold one of ``addresses``, if any
    are given. With ``output``, the bytes of each region go into a file of at most ``most`` bytes."""
    from vmaforensics.proc.maps import maps_lines

    wanted = processes(session.views, pids)
    warn_of_missing(pids, wanted)
    for pid, comm, mm in wanted:
        for line in map(Line.of, maps_lines(session.kernel, session.views, mm)):
            if addresses and not any(line.start <= address < line.end for address in addresses):
                continue
            file = "Disabled" if output is None else _dump(session, pid, mm, line, output, most)
            yield (
                pid,
                comm,
                format_hints.Hex(line.start),
                format_hints.Hex(line.end),
                line.perms,
                format_hints.Hex(line.pgoff),
                line.major,
                line.minor,
                line.inode,
                printable(line.name) if line.name else NOT_APPLICABLE,
                file,
            )


def _dump(session: Session, pid: int, mm: int, line: Line, output: Output, most: int) -> Any:  # noqa: ANN401
    """The name of the file that the bytes of a region went to; pages without bytes are zeros in it."""
    from vmaforensics.export.extract import Region, write_region

    where = f"{line.start:#x}-{line.end:#x} of pid {pid}"
    if line.end - line.start > most:
        log.warning("%s has more than %d bytes and is not dumped; --maxsize allows more", where, most)
        return "Error outputting file"
    name = f"pid.{pid}.vma.{line.start:#x}-{line.end:#x}.dmp"
    region = Region.of_process(mm, pid, (line.start, line.end))
    try:
        with output(name) as stream:
            written = write_region(session.kernel, session.views, region, stream)
    except (OSError, VmaForensicsError) as error:
        log.error("%s cannot be written: %s", where, printable(str(error)))
        return "Error outputting file"
    missing = {state: count for state, count in written.counts.items() if state not in ("present", "zero page")}
    if missing:
        counts = ", ".join(f"{count} {state}" for state, count in missing.items())
        log.info("%s: pages written as zeros: %s", where, counts)
    return output.names[name]
