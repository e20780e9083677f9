"""Tables of kallsyms in which words are wrong, put right as far as the other tables say what they should be.

The token index holds where each string of the token table begins, and each begins behind a NUL; a marker is where 256
names more have been passed. So a wrong word of one of the two shows in the other, and is written over in a copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.columns.types import U8, Bools

_TOKENS = 256
_MOST_WRONG = 12  # entries of the index, or NULs of the table: three words of it
_LONGEST = 64  # characters of a token
_PIECE = 32  # words that are counted together
_PIECES_WITHIN = _TOKENS // _PIECE - 2  # of any index, wherever it begins
_APART = 2 * _TOKENS // _PIECE  # pieces; those of one index are nearer
_FOLLOWING = 3  # steps that fit behind a gap, which is no accident
SHORT = 16  # markers that are no run yet
_MOST_GAP = 1100  # markers in a row that may be wrong: a page of them


def damaged_token_tables(buffer: U8) -> Iterator[tuple[int, int, U8]]:
    """(token_table, token_index, the bytes from the one to the end of the other, put right) of every place where most
    of an index fits most of a table. ``buffer`` begins at a multiple of 4."""
    words = buffer[: len(buffer) // 2 * 2].view("<u2")
    if len(words) <= _TOKENS:
        return
    # Wraps around below 1: whatever is no step of a token's length is large.
    good = np.diff(words) - np.uint16(1) < _LONGEST
    best: list[tuple[int, bool, int, int]] = []  # of each index: how much fits, does it begin with 0, where, the table
    for index in _ascending(good):
        found = _table_before(buffer, index)
        if found is None:
            continue
        this = (found[1], bool(words[index // 2] == 0), index, found[0])
        if best and index - best[-1][2] < 2 * _TOKENS:
            best[-1] = max(best[-1], this)
        else:
            best.append(this)
    for _, _, index, start in best:
        yield start, index, _put_right(buffer, start, index)


def _ascending(good: Bools) -> Iterator[int]:
    """Bytes from which on all but some of the words of an index ascend; ``good`` says of each word and the next whether
    they do. Multiples of 4."""
    # Of the whole pieces within an index one at least has fewer that do not than there are pieces.
    pieces = good[: len(good) // _PIECE * _PIECE].reshape(-1, _PIECE)
    dense = np.flatnonzero(np.add.reduce(pieces, axis=1, dtype=np.uint8) >= _PIECE - _MOST_WRONG // _PIECES_WITHIN)
    if not len(dense):
        return
    starts = np.flatnonzero(np.diff(dense, prepend=dense[0] - _APART - 1) > _APART)
    for first, last in zip(dense[starts].tolist(), dense[np.append(starts[1:], len(dense)) - 1].tolist(), strict=True):
        low = max(first * _PIECE - _TOKENS, 0) & ~1
        near = good[low : (last + 1) * _PIECE + _TOKENS]
        passed = np.concatenate([[0], np.cumsum(near)])
        runs = passed[_TOKENS - 1 :] - passed[: -_TOKENS + 1] >= _TOKENS - 1 - _MOST_WRONG
        yield from (2 * low + 4 * np.flatnonzero(runs[::2])).tolist()


def _table_before(buffer: U8, index: int) -> tuple[int, int] | None:
    """(where the table begins that the index at byte ``index`` is of, how many entries say so)."""
    offsets = buffer[index : index + 2 * _TOKENS].view("<u2").astype(np.int64)
    nul = buffer[max(index - (1 << 13), 0) : index] == 0
    low = index - len(nul)
    # Between the last string's end and the index there is up to 7 bytes of padding.
    votes = np.zeros(len(nul) + 1, np.int64)
    for offset in offsets[1:].tolist():
        if offset < len(nul):
            votes[: len(nul) - offset + 1] += nul[offset - 1 :] if offset else 0
    start = int(np.argmax(votes))
    if votes[start] < _TOKENS - 1 - _MOST_WRONG:
        return None
    return low + start, int(votes[start])


def _put_right(buffer: U8, start: int, index: int) -> U8:
    """The table from byte ``start`` on and its index."""
    raw = buffer[start : index + 2 * _TOKENS].copy()
    offsets = raw[-2 * _TOKENS :].view("<u2").astype(np.int64)
    size = len(raw) - 2 * _TOKENS
    places = np.flatnonzero(raw[:size] == 0) + 1
    offsets[0] = 0
    kept = np.isin(offsets, places) | (np.arange(_TOKENS) == 0)
    # What stands in no order with its neighbours is wrong though a NUL is before it.
    for row in range(1, _TOKENS - 1):
        if kept[row] and not offsets[row - 1] < offsets[row] < offsets[row + 1] and offsets[row - 1] < offsets[row + 1]:
            kept[row] = False
    for row in np.flatnonzero(~kept).tolist():
        before = int(offsets[row - 1])
        after = next((int(offsets[later]) for later in range(row + 1, _TOKENS) if kept[later]), size)
        known = before < offsets[row] < after
        between = places[(places > before) & (places < after)]
        # The index is believed where it keeps the order: then the NUL is wrong.
        offsets[row] = offsets[row] if known and not len(between) else (between[0] if len(between) else before + 1)
        raw[int(offsets[row]) - 1] = 0
    raw[size:] = np.frombuffer(offsets.astype("<u2").tobytes(), np.uint8)
    return raw


def may_run(words: NDArray[np.uint32], firsts: NDArray[np.int64], least: int, most: int) -> NDArray[np.bool_]:
    """Behind which of ``firsts`` do steps follow that markers can take, at once or behind a gap?

    A run of more than :data:`SHORT` has some, or :func:`mended_run` finds some.
    """
    width = _MOST_GAP + SHORT
    found = firsts > len(words) - width  # so near the end of the words that it is tried anyway
    rows = np.flatnonzero(~found)
    if not len(rows):
        return found
    windows = np.lib.stride_tricks.sliding_window_view(words, width)[firsts[rows]]
    found[rows] = _followed(windows.astype(np.int64), least, most).any(axis=1)
    return found


def mended_run(words: NDArray[np.uint32], run: NDArray[np.int64], least: int, most: int) -> NDArray[np.int64]:
    """``run``, the first words of markers up to one that does not fit, with those behind it: 256 names take from
    ``least`` to ``most`` bytes. What is missing is put in at equal distances, to be found by the names."""
    while len(words) > len(run) + _FOLLOWING:
        rest = words[len(run) : len(run) + _MOST_GAP].astype(np.int64)
        ahead = np.arange(1, len(rest) + 1)
        step = rest - run[-1]
        fits = (step >= least * ahead) & (step <= most * ahead)
        follows = np.zeros(len(rest), np.bool_)
        follows[:-_FOLLOWING] = _followed(rest, least, most)
        hit = np.flatnonzero(fits & follows)
        if not len(hit):
            return run
        first = int(hit[0])
        between = np.linspace(run[-1], rest[first], first + 2)[1:-1].astype(np.int64)
        more = rest[first:]
        good = np.diff(more)
        bad = np.flatnonzero((good < least) | (good > most))
        run = np.concatenate([run, between, more[: int(bad[0]) + 1] if len(bad) else more])
    return run


def _followed(words: NDArray[np.int64], least: int, most: int) -> NDArray[np.bool_]:
    """Along the last axis: behind which words do so many steps follow that fit; of the last words none is said."""
    step = np.diff(words)
    good = (step >= least) & (step <= most)
    last = good.shape[-1] - _FOLLOWING + 1
    found: NDArray[np.bool_] = np.logical_and.reduce([good[..., place : place + last] for place in range(_FOLLOWING)])
    return found
