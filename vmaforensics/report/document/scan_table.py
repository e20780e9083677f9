"""What rules of a scan matched as a table: ``matches``, beside those of ``tables.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.report.document.tables import columns_of_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.scan.document import Owner, ScanFinding, ScanMatch, ScanPart

MATCHES = np.dtype(
    [
        ("finding", "O"),
        ("rule", "O"),
        ("namespace", "O"),
        ("tags", "O"),  # tags: with a space between
        ("kind", "O"),  # kind: of memory
        ("place", "O"),
        ("pattern", "O"),  # pattern: empty where the rule matched without one
        ("offset", "i8"),  # bytes; -1 without a pattern
        ("physical", "u8"),
        ("bytes", "i8"),
        ("data", "O"),
        ("text", "O"),
        # Of the first process that has it; -1 and 0 where none maps it. ``address`` is that of the first match.
        ("pid", "i8"),
        ("comm", "O"),
        ("address", "u8"),
        ("start", "u8"),
        ("end", "u8"),
        ("perms", "O"),
        ("name", "O"),
        ("processes", "i8"),  # that have it, as far as they are listed
        ("hidden", "?"),  # in one of them the kernel's own index lacks the region
    ]
)


def matches(scan: ScanPart | None) -> NDArray[np.void]:
    """The rows of :data:`MATCHES`: one for each place that a pattern matched; one for a rule that did without."""
    found: list[tuple[ScanFinding, ScanMatch | None]] = []
    for finding in scan.findings if scan is not None else ():
        found += [(finding, match) for match in finding.matches or (None,)]
    owners: list[Owner | None] = [finding.owners[0] if finding.owners else None for finding, _ in found]
    return columns_of_rows(
        MATCHES,
        len(found),
        finding=[finding.id for finding, _ in found],
        rule=[finding.rule for finding, _ in found],
        namespace=[finding.namespace for finding, _ in found],
        tags=[" ".join(finding.tags) for finding, _ in found],
        kind=[finding.where for finding, _ in found],
        place=[finding.place for finding, _ in found],
        pattern=["" if match is None else match.pattern for _, match in found],
        offset=[-1 if match is None else match.offset for _, match in found],
        physical=[0 if match is None else int(match.physical, 16) for _, match in found],
        bytes=[0 if match is None else match.length for _, match in found],
        data=["" if match is None else match.data for _, match in found],
        text=["" if match is None else match.text for _, match in found],
        pid=[-1 if owner is None else owner.pid for owner in owners],
        comm=["" if owner is None else owner.comm for owner in owners],
        address=[0 if owner is None else int(owner.address, 16) for owner in owners],
        start=[0 if owner is None or owner.start is None else int(owner.start, 16) for owner in owners],
        end=[_end(owner) for owner in owners],
        perms=["" if owner is None else owner.perms for owner in owners],
        name=["" if owner is None else owner.name for owner in owners],
        processes=[len({owner.pid for owner in finding.owners}) for finding, _ in found],
        hidden=[any(owner.hidden for owner in finding.owners) for finding, _ in found],
    )


def _end(owner: Owner | None) -> int:
    return 0 if owner is None or owner.end is None else min(int(owner.end, 16), (1 << 64) - 1)
