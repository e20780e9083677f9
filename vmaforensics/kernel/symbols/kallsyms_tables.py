"""Finding the tables of kallsyms in the kernel's read-only data, by their structure alone.

Every step checks itself against another table, so no order, alignment or encoding is chosen by release: each is tried,
and what does not fit is dropped (kernel/kallsyms.c, scripts/kallsyms.c).

=============  ============================================================================================
4.19 to 6.3    offsets, relative_base, num_syms, names, markers, [seqs_of_names,] token_table, token_index
6.4 to 6.19    num_syms, names, markers, token_table, token_index, offsets, relative_base, seqs_of_names
7.0 and later  the same, without relative_base; aligned to 4 bytes instead of 8
=============  ============================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vmaforensics.kernel.symbols.kallsyms_repair import SHORT, may_run, mended_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# Tokens 0x30 to 0x39 stand for themselves: every digit occurs in some symbol name.
_DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
GROUP = 256  # names between two markers
# Four digits that follow each other, each with a NUL behind it, in one word: what they have in common, and what differs
_FOUR_DIGITS, _FOUR_DIGITS_MASK = 0x0030_0030_0030_0030, 0xFFF0_FFF0_FFF0_FFF0
_NUL_FIRST, _NUL_FIRST_MASK = 0x3000_3000_3000_3000, 0xF0FF_F0FF_F0FF_F0FF
_ASCENDING, _ONE_EACH = np.uint64(0x0003_0002_0001_0000), np.uint64(0x0001_0001_0001_0001)
_AT_ONCE = 1 << 17  # words: what fits into a cache of the CPU
_LONGEST_TABLE = 1 << 14  # bytes; 256 strings of up to 64
_MAX_NAME = 2 + 512  # length field and KSYM_NAME_LEN
_MAX_SYMBOLS = 1 << 23
_MANY_GROUPS = 64  # that are no accident
_FEW = 64  # of those places, looked at together
_MOST_RUNS = 1 << 16  # places tried as the beginning of the markers
_STRIDE = 16  # names
_ASCENDING_MOSTLY = 0.9
BASE_LOST = 0  # in the place of a base that lies on a lost page: no kernel has it
_REACH = 24 << 20  # bytes before the token table in which the other tables must lie


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Byte offsets of the tables within one buffer, and what they turned out to be."""

    token_table: int
    token_index: int
    markers: int
    marker_width: int  # bytes; 8 up to 4.19
    names: int
    count: int
    offsets: int
    num_syms: int
    relative_base: int | None  # the value, BASE_LOST; None: offsets count from their own place


def token_tables(buffer: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """(token_table, token_index) byte offsets of every place in ``buffer`` where both fit each other.

    The index holds the 256 cumulative offsets of the table's strings, so a hit proves itself.
    """
    if len(buffer) < 2 * GROUP:  # the index alone
        return
    for at in _digits(buffer):
        low = max(at - _LONGEST_TABLE, 0) & -8  # the index is aligned
        raw = buffer[low : at + _LONGEST_TABLE].tobytes()
        digits = end = at - low
        for _ in range(GROUP - ord("0")):
            end = raw.find(b"\0", end, end + 64) + 1
            if end == 0:
                break
        if end:
            for align in (8, 4):
                index = -(-end // align) * align
                if index + 512 > len(raw):
                    continue
                offsets = np.frombuffer(raw, "<u2", GROUP, index)
                start = digits - int(offsets[ord("0")])
                if start >= 0 and offsets[0] == 0 and _tokens_fit(raw, start, end, offsets):
                    yield low + start, low + index
                    break


def _digits(buffer: NDArray[np.uint8]) -> list[int]:
    """Offsets of the ten digits, each a string of its own, ascending.

    Wherever they begin, the first aligned word within them holds four digits and four NULs.
    """
    words = buffer[: len(buffer) // 8 * 8].view("<u8")
    room = np.empty(min(_AT_ONCE, len(words)), np.uint64)
    found = set()
    for low in range(0, len(words), _AT_ONCE):
        part = words[low : low + _AT_ONCE]
        for odd in (0, 1):  # a NUL comes first
            masked = np.bitwise_and(part, _NUL_FIRST_MASK if odd else _FOUR_DIGITS_MASK, out=room[: len(part)])
            rows = np.flatnonzero(masked == (_NUL_FIRST if odd else _FOUR_DIGITS))
            first = (part[rows] >> np.uint64(8 * odd)) & np.uint64(0xFF)
            ascending = part[rows] == (_ASCENDING + first * _ONE_EACH) << np.uint64(8 * odd)
            digits = 8 * (low + rows) + odd - 2 * (first.astype(np.int64) - ord("0"))
            found.update(digits[ascending].tolist())
    return sorted(at for at in found if at >= 0 and buffer[at : at + len(_DIGITS)].tobytes() == _DIGITS)


def _tokens_fit(raw: bytes, start: int, end: int, offsets: NDArray[np.uint16]) -> bool:
    starts = np.concatenate([[0], np.flatnonzero(np.frombuffer(raw, np.uint8, end - start, start) == 0) + 1])
    return len(starts) == GROUP + 1 and bool((starts[:-1] == offsets).all())


def locate(buffer: NDArray[np.uint8], token_table: int, token_index: int, image_start: int) -> Tables | None:
    """Find the other tables around a token table; None if nothing fits. ``buffer`` should hold some
    24 MiB before it and 4 MiB after; no address of the kernel image is below ``image_start``.
    Pages that could not be read must be zero in it."""
    for width in (4, 8):
        for markers, values in _marker_runs(buffer, token_table, width):
            found = _names_before(buffer, markers, values)
            if found is None:
                continue
            num_syms, names, count = found
            placed = _offsets_for(buffer, names, count, token_index, image_start)
            if placed is not None:
                return Tables(
                    token_table=token_table,
                    token_index=token_index,
                    markers=markers,
                    marker_width=width,
                    names=names,
                    count=count,
                    offsets=placed[0],
                    num_syms=num_syms,
                    relative_base=placed[1],
                )
    return None


def _marker_runs(buffer: NDArray[np.uint8], before: int, width: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Runs of numbers from 0 up, in steps that 256 names can take, nearest to ``before`` first."""
    low = max(0, before - _REACH)
    low += -(low - before) % width
    words = buffer[low:before].view(f"<u{width}")
    # The first marker is 0: only from there is a run worth following.
    zeros = np.flatnonzero((words[:-1] == 0) & (words[1:] >= 2 * GROUP) & (words[1:] <= _MAX_NAME * GROUP))
    for first in _worth_following(words, zeros[::-1][:_MOST_RUNS]):
        length = 256
        while True:
            run = words[first : first + length].astype(np.int64)
            step = np.diff(run)
            good = (step >= 2 * GROUP) & (step <= _MAX_NAME * GROUP)
            if not good.all():
                run = run[: int(np.argmin(good)) + 1]
                break
            if first + length >= len(words):
                break
            length *= 4
        run = mended_run(words[first:], run, 2 * GROUP, _MAX_NAME * GROUP)
        if len(run) > SHORT:
            yield low + first * width, run


def _worth_following(words: NDArray[Any], firsts: NDArray[np.int64]) -> Iterator[int]:
    """Those of ``firsts`` behind which markers may run; a few are looked at at once, for the right one comes early."""
    for low in range(0, len(firsts), _FEW):
        part = firsts[low : low + _FEW]
        yield from part[may_run(words, part, 2 * GROUP, _MAX_NAME * GROUP)].tolist()


def _names_before(buffer: NDArray[np.uint8], markers: int, values: NDArray[np.int64]) -> tuple[int, int, int] | None:
    """(num_syms, names, number of symbols), found as a plausible num_syms after which the markers fit the names."""
    groups = len(values)
    high = markers - int(values[-1])
    low = max(0, high - _MAX_NAME * GROUP)
    low += -low % 4
    if high - low < 8:
        return None
    words = buffer[low : low + (high - low) // 4 * 4].view("<u4")
    plausible = (words > (groups - 1) * GROUP) & (words <= groups * GROUP) & (words <= _MAX_SYMBOLS)
    view = buffer.data
    for word in np.flatnonzero(plausible)[::-1].tolist():
        for names in (low + word * 4 + 8, low + word * 4 + 4):
            if _fits(view, names, values):
                return low + word * 4, names, int(words[word])
    if groups >= _MANY_GROUPS:  # num_syms itself is wrong
        for names in _leading_on(buffer, np.arange(low + (high - low) // 4 * 4, low, -4), values):
            if _fits(view, names, values):
                last = names + int(values[-1])
                rest = next((count for count in range(GROUP) if _passed(view, last, count + 1) > markers), GROUP)
                return names - 4, names, (groups - 1) * GROUP + rest
    return None


def _leading_on(buffer: NDArray[np.uint8], places: NDArray[np.int64], values: NDArray[np.int64]) -> list[int]:
    """Those of ``places`` at which the names may begin: from there one of three markers leads to the next. The pages of
    others may be lost."""
    found: list[int] = []
    for group in (0, len(values) // 3, 2 * len(values) // 3):
        kept, at = places, places + values[group]
        for step in range(GROUP):
            if step % _STRIDE == 0:  # what is no beginning soon leads too far, or nowhere
                near = (at < kept + values[group + 1]) & (at + 1 < len(buffer))
                kept, at = kept[near], at[near]
            here = np.minimum(at, len(buffer) - 2)
            length = buffer[here].astype(np.int64)
            long = length >= 0x80
            at = at + 1 + np.where(long, 1 + (length & 0x7F | buffer[here + 1].astype(np.int64) << 7), length)
        found += kept[at == kept + values[group + 1]].tolist()
    return list(dict.fromkeys(found))


def _passed(view: memoryview, at: int, count: int) -> int:
    """Where ``count`` names from ``at`` on end; the end of all if one is empty."""
    for _ in range(count):
        if at + 1 >= len(view) or view[at] == 0:
            return len(view)
        at += 1 + view[at] if view[at] < 0x80 else 2 + (view[at] & 0x7F | view[at + 1] << 7)
    return at


def _fits(view: memoryview, names: int, values: NDArray[np.int64]) -> bool:
    """Do the names from ``names`` on reach the markers? Most groups do that can be read, two of the first at least:
    a wrong length or marker costs its group. No name is empty: a length of 0 is that of a page that is not held."""
    agreed = missed = 0
    for group in range(min(len(values) - 1, 64)):
        at = names + int(values[group])
        for _ in range(GROUP):
            if at + 1 >= len(view):
                return False
            length = view[at]
            if length == 0:
                break
            at += 1 + length if length < 0x80 else 2 + (length & 0x7F | view[at + 1] << 7)
        else:
            if at == names + int(values[group + 1]):
                agreed += 1
                if agreed >= 2 and agreed > 2 * missed:
                    return True
            else:
                missed += 1
                if missed > 4 + agreed:
                    return False
    return False


def _offsets_for(
    buffer: NDArray[np.uint8], names: int, count: int, token_index: int, image_start: int
) -> tuple[int, int | None] | None:
    """(offsets, relative base) of the 4-byte offset table, before num_syms or after token_index."""

    def base_at(at: int) -> int | None:
        if at < 0 or at + 8 > len(buffer):
            return None
        value = int(buffer[at : at + 8].view("<u8")[0])
        return value if value >= image_start else None

    starts = [num_syms - 8 for num_syms in (names - 8, names - 4) if num_syms % 4 == 0]
    early = [(at, at - -(-4 * count // 8) * 8) for at in starts]
    for at, offsets in early:
        base = base_at(at)
        if base is not None:
            return offsets, base
    late = token_index + 512
    base = base_at(late + -(-4 * count // 8) * 8)
    inside = late + 4 * count <= len(buffer)
    if inside and (base is not None or _ascend(buffer, late, count, own=True)):
        return late, base
    for offsets in [offsets for _, offsets in early] + ([late] if inside else []):
        if offsets >= 0 and _ascend(buffer, offsets, count, own=False):
            return offsets, BASE_LOST
    return (late, base) if inside else None


def _ascend(buffer: NDArray[np.uint8], at: int, count: int, *, own: bool) -> bool:
    """Are these offsets those of addresses that ascend, but for those on pages that are lost? With ``own`` they count
    from their own places, else from a base; up to 6.14 absolute values come first, and the others are negative."""
    raw = buffer[at : at + 4 * count].view("<i4").astype(np.int64)
    if own:
        order = raw + 4 * np.arange(count)
    else:
        order = np.where(raw >= 0, raw, (1 << 32) - raw) if (raw < 0).mean() > 1 / 2 else raw
    steps = np.diff(order)
    return bool((steps >= 0).mean() > _ASCENDING_MOSTLY and (steps > 0).mean() > 1 / 2)
