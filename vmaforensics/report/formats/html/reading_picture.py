"""The picture of an acquisition while the machine ran: time over address, as integers for a template.

The line is when each part of memory was read; dots are exact clocks. Beside it stands, for each process with
contradictions, from when to when their records were read: what stands, and what is torn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from vmaforensics.report.document.acquired import Acquired

_LEFT, _TOP, _WIDE, _HIGH = 70, 16, 420, 220  # of the plane
_BAR, _STEP = 12, 16  # of a process
_MOST = 12  # processes
_GIB, _MIB = 1 << 30, 1 << 20


class Bar(NamedTuple):
    """When the records of a process were read."""

    x: int
    y: int
    height: int
    kind: str  # "stands" or "torn"
    text: str


class Text(NamedTuple):
    """A word of the picture."""

    x: int
    y: int
    anchor: str
    text: str


class Picture(NamedTuple):
    """Everything to draw, in the units of the view box."""

    width: int
    height: int
    line: str  # points
    dots: list[tuple[int, int]]
    frame: tuple[int, int, int, int]
    bars: list[Bar]
    texts: list[Text]
    label: str


def reading_picture(acquired: Acquired) -> Picture | None:
    """The picture; None where nothing is known of when memory was read."""
    knots, duration = acquired.knots, acquired.duration_ms or 0
    if acquired.how != "live" or len(knots) < 2 or duration <= 0:
        return None
    last = max(int(knot.address, 16) for knot in knots) or 1

    def across(address: str) -> int:
        return _LEFT + _WIDE * int(address, 16) // last

    def down(ms: int) -> int:
        return _TOP + _HIGH - _HIGH * min(max(ms, 0), duration) // duration

    points = [(across(knot.address), down(knot.ms)) for knot in knots]
    rows = sorted(acquired.records, key=lambda row: (row.torn, row.pid))[:_MOST]
    bars = []
    for number, row in enumerate(rows):
        top, bottom = down(row.last_ms), down(row.first_ms)
        who = f"{row.comm} ({row.pid})" if row.pid else "many"
        text = f"{who}: {', '.join(row.rules[:3])}{', …' if len(row.rules) > 3 else ''}"
        x = _LEFT + _WIDE + 24 + _STEP * number
        bars.append(Bar(x, top, max(bottom - top, 2), "torn" if row.torn else "stands", text))
    amount = f"{last / _GIB:.1f} GiB" if last >= _GIB else f"{last // _MIB} MiB"
    texts = [
        Text(_LEFT - 8, down(duration) + 4, "end", f"{duration / 1000:.0f} s"),
        Text(_LEFT - 8, down(0) + 4, "end", "0 s"),
        Text(_LEFT, _TOP + _HIGH + 18, "start", "0"),
        Text(_LEFT + _WIDE, _TOP + _HIGH + 18, "end", amount),
        Text(_LEFT + _WIDE // 2, _TOP + _HIGH + 18, "middle", "physical address"),
    ]
    return Picture(
        width=_LEFT + _WIDE + 40 + _STEP * max(len(rows), 1),
        height=_TOP + _HIGH + 30,
        line=" ".join(f"{x},{y}" for x, y in points),
        dots=[point for point, knot in zip(points, knots, strict=True) if knot.exact],
        frame=(_LEFT, _TOP, _WIDE, _HIGH),
        bars=bars,
        texts=texts,
        label=acquired.text,
    )
