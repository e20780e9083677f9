"""Draws docs/images/smear.svg: a guest at work that was read in 20 s, as a report's page draws it.

``make smear``. The numbers are those of an image of a 6.1 guest of 512 MiB, rounded.
"""

from __future__ import annotations

import sys

from vmaforensics.report.document.acquired import Acquired, Knot, ReadApart
from vmaforensics.report.formats.html.reading_picture import reading_picture
from vmaforensics.report.formats.html.render import environment

MIB = 1 << 20
KNOTS = ((0, 0, False), (310, 11870, True), (316, 12320, True), (332, 12910, True), (478, 18650, True))
GUEST = Acquired(
    how="live",
    given=False,
    by_clocks="live",
    panicked=False,
    apart_ms=6800,
    start="2024-01-01T00:00:29Z",
    end="2024-01-01T00:00:49Z",
    duration_ms=20000,
    knots=tuple(Knot(address=hex(at * MIB), ms=ms, exact=exact) for at, ms, exact in (*KNOTS, (512, 20000, False))),
    records=(
        ReadApart(
            pid=244, comm="resting", rules=("VMA-MISSING",), contradictions=2, first_ms=2100, last_ms=11200, torn=False
        ),
        ReadApart(pid=255, comm="bash", rules=("PTE-REMAP",), contradictions=3, first_ms=900, last_ms=19100, torn=True),
        ReadApart(
            pid=1499, comm="sleep", rules=("MT-NODE",), contradictions=11, first_ms=500, last_ms=19800, torn=True
        ),
    ),
)


if __name__ == "__main__":
    sys.stdout.write(environment().get_template("reading.svg").render(picture=reading_picture(GUEST)) + "\n")
