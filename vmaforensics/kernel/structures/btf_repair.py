"""Where each record of a damaged BTF blob begins, and which type it is.

Type ids are ordinal numbers and records have varying lengths: one wrong length would cost every type behind it. What
makes up for that: nearly every word of a record can be checked, so that the next sound one is recognised by itself; and
how many types lie in between follows from what refers to those behind: the type of a function is a FUNC_PROTO, an
unnamed member is a struct or union.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.kernel.structures import btf_left, btf_records
from vmaforensics.kernel.structures.btf_records import (
    ARRAY,
    EACH,
    ENUM,
    ENUM64,
    FIXED,
    FLOAT,
    FUNC,
    FUNC_PROTO,
    HEAD,
    INT,
    PTR,
    STRUCT,
    UNION,
    Records,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.columns.types import I64, U32, Bools

_SOUND = 4  # sound records in a row that are no accident
_BLOCK, _FEW = 2048, 16  # records looked at at once, and behind one that is not sound
_TOGETHER = 1 << 18  # words
_PROOF = 6  # references that have to agree on the number of a type
_DOUBTFUL = 0.2  # of them may be damaged themselves; of a wrong number, most disagree
_MOST_TRIED = 4096  # numbers
_FIRST, _LENIENT = 48, 6  # records that a number is tried with before it is tried with all; that may be wrong there
_ANY = (1 << 32) - 1
_OF_FUNCTIONS = 1 << FUNC_PROTO
_OF_UNNAMED = sum(1 << kind for kind in (STRUCT, UNION, *btf_records.ALIASES))
_SIZED = (INT, STRUCT, UNION, ENUM, ENUM64, FLOAT)
_OF_MEMBERS = sum(1 << kind for kind in (*_SIZED, PTR, ARRAY, *btf_records.ALIASES))
_FOREIGN = 1024  # words of a page that is not the one it should be
_PIECE = 256  # records
_NO_ROOM = 1 << 40
_ALIGNMENT = 8  # bytes


class Repaired(NamedTuple):
    """The records that were found, by position."""

    words: NDArray[np.uint32]  # a copy, lengths put right
    starts: I64  # word at which each record begins
    ids: I64  # type id of each record, 0 where it is not proven
    damaged: int  # places at which records were damaged or missing
    derived: int  # records, the last, that stand in for lost ones


class _Chain(NamedTuple):
    starts: I64
    cuts: list[int]  # records before which types may be missing, ascending
    least: list[int]  # types missing there if nothing says otherwise
    room: list[int]  # words there


def chain_of(records: Records) -> tuple[I64, bool]:
    """(word at which each record begins, do they make up the section?): only lengths are followed."""
    step = np.ascontiguousarray(records.lengths()).data if len(records.words) >= HEAD else []
    starts: list[int] = []
    at, end = 0, len(records.words)
    while at + HEAD <= end:
        size = step[at]
        if size == 0 or at + size > end:
            return np.array(starts, np.int64), False
        starts.append(at)
        at += size
    return np.array(starts, np.int64), True


def is_sound(records: Records, starts: I64) -> bool:
    """Does every record of a whole chain begin as it should, and every function have a type that is one?"""
    if not records.heads(starts).all():
        return False
    kinds = records.kinds(starts)
    types = records.words[starts[kinds == FUNC] + 2].astype(np.int64)
    return bool(((types >= 1) & (types <= len(starts))).all()) and bool((kinds[types - 1] == FUNC_PROTO).all())


def repair(records: Records, strings: bytes) -> Repaired:
    """Find the records of a section in which words are wrong; ``strings`` is the other section."""
    records.words = records.words.copy()
    chain = _follow(records)
    ids = _number(records, chain)
    more = btf_left.stand_ins(records, chain.starts, ids, strings)
    records.words = np.concatenate([records.words, np.array(more.words, np.uint32)])
    return Repaired(
        records.words,
        np.concatenate([chain.starts, np.array(more.starts, np.int64)]),
        np.concatenate([ids, np.array(more.ids, np.int64)]),
        len(chain.cuts),
        len(more.ids),
    )


def _follow(records: Records) -> _Chain:
    """Follow the lengths from the beginning; behind what is not sound, go on where records are sound again."""
    lengths = records.lengths()
    end = len(records.words)
    ends = np.arange(len(lengths)) + lengths
    can = np.zeros(end, np.bool_)
    possible = np.flatnonzero((lengths > 0) & (ends <= end) & (np.arange(len(lengths)) + HEAD <= end))
    can[possible] = records.heads(possible)
    found: list[I64] = []
    count = 0
    cuts: list[int] = []
    least: list[int] = []
    room: list[int] = []
    at, most = 0, _BLOCK
    while at + HEAD <= end:
        block = _sound_block(records, can, lengths, at, most)
        found.append(block)
        count += len(block)
        at = int(block[-1] + lengths[block[-1]]) if len(block) else at
        if len(block) == most or at + HEAD > end:
            most = min(2 * most, _BLOCK)
            continue
        most = _FEW  # where one is not sound, the next that is not may be near
        after = _next_sound(records, can, lengths, at)
        left = btf_left.leading(records, at, after) if at + HEAD <= after else 0
        kept = _put_right(records, at, after, left) if at + HEAD <= after else False
        size = after - at if kept else btf_left.cut_to(records, at, left)
        if size:
            lengths[at] = size
            found.append(np.array([at], np.int64))
            count += 1
        cuts.append(count)
        least.append(0 if size else 1)
        room.append(after - at)
        at = after
    return _Chain(np.concatenate([np.zeros(0, np.int64), *found]), cuts, least, room)


def _sound_block(records: Records, can: Bools, lengths: I64, at: int, most: int) -> I64:
    """The sound records from word ``at`` on, at most ``most``."""
    starts: list[int] = []
    end = len(can)
    while len(starts) < most and at < end and can[at]:
        starts.append(at)
        at += int(lengths[at])
    block = np.array(starts, np.int64)
    good = records.bodies(block)
    return block if good.all() else block[: int(np.argmin(good))]


def _next_sound(records: Records, can: Bools, lengths: I64, bad: int) -> int:
    """The first word behind the record at ``bad`` from which on a few records are sound; the end if there is none."""
    end = len(can)
    first, width = bad + 1, _FEW
    while first < end:
        tried = np.flatnonzero(can[first : first + width]) + first
        while len(tried):
            rows, ends, whole = _chains(can, lengths, tried)
            # A wild length is that of the whole section: no more words than that are looked at together.
            now = max(int(np.searchsorted(np.cumsum(ends - tried), _TOGETHER, "right")), 1)
            held = rows[:now] >= 0
            starts = distinct(rows[:now][held])
            good = np.ones(held.shape, np.bool_)
            good[held] = records.bodies(starts)[np.searchsorted(starts, rows[:now][held])]
            sound = np.flatnonzero(whole[:now] & good.all(1))
            if len(sound):
                return int(tried[sound[0]])
            tried = tried[now:]
        first, width = first + width, min(2 * width, _BLOCK)
    return end


def _chains(can: Bools, lengths: I64, tried: I64) -> tuple[I64, I64, Bools]:
    """The first records that follow from each of ``tried`` on: (words they begin at, ``(n, _SOUND)``, -1 for none;
    the word behind the last; are there as many, or does the section end with them?)"""
    end = len(can)
    rows = np.full((len(tried), _SOUND), -1, np.int64)
    here = tried.copy()
    going = np.ones(len(tried), np.bool_)
    for place in range(_SOUND):
        rows[going, place] = here[going]
        here[going] += lengths[here[going]]
        if place + 1 < _SOUND:
            going &= (here + HEAD <= end) & can[np.minimum(here, end - 1)]
    return rows, here, going | (here == end)


def _put_right(records: Records, at: int, after: int, left: int) -> bool:
    """Can what lies in ``[at, after)`` be one record of the kind it says? Then its number of elements is made so.

    If its first ``left`` members are sound and not all, it is one if it says itself that it has so many.
    """
    kind = int(records.words[at + 1] >> np.uint32(24)) & 0x7F
    if not 1 <= kind <= btf_records.ENUM64:
        return False
    rest = after - at - HEAD - int(FIXED[kind])
    each = int(EACH[kind])
    if each == 0:
        return rest == 0
    if rest < 0 or rest % each:
        return False
    if kind == btf_records.STRUCT and left < rest // each != int(records.counts(np.array([at]))[0]):
        return False
    records.words[at + 1] = np.uint32(int(records.words[at + 1]) & 0xFF000000 | rest // each)
    return True


# Which type is which ------------------------------------------------------------------------------------------


class _Evidence(NamedTuple):
    """What those that refer to each id say of the type; by id."""

    kinds: U32  # a bit for each kind it may be
    room: I64  # bytes that the smallest gap has in which such a member lies; _NO_ROOM: it is no member's type


class _Part(NamedTuple):
    """Records in a row."""

    bits: U32  # of the kind of each
    sizes: I64  # bytes of each; -1 where the record does not say


def _number(records: Records, chain: _Chain) -> I64:
    """The type id of each record; 0 where what refers to it does not say.

    The records between two damaged places keep their order, so that one number is to be found for all of them: first
    the one that follows if each place cost the types it seems to, then any that there is room for.
    """
    starts = chain.starts
    kinds = records.kinds(starts)
    evidence = _evidence(records, starts, kinds)
    whole = _Part(np.uint32(1) << kinds.astype(np.uint32), _sizes(records, starts, kinds))
    ids = np.zeros(len(starts), np.int64)
    proven, behind = 1, 0  # the id behind the last record whose own is proven, and the word it begins at
    number = 1  # the id of the next record, if nothing but what is known was lost
    waiting: list[slice] = []  # records numbered on trust since then
    for first, last, lost in _pieces(chain):
        number += lost
        rows = slice(first, last)
        part = _Part(whole.bits[rows], whole.sizes[rows])
        asked, wrong = (int(count[0]) for count in _asked(evidence, part, np.array([number])))
        base: int | None = number
        if wrong > _DOUBTFUL * asked:
            least = max(proven - _FOREIGN // HEAD, 1)
            most = proven + (int(starts[first]) - behind + _FOREIGN) // HEAD
            base = _best(evidence, part, least, most) if last - first >= _PROOF else None
            if base is not None:
                for unproven in waiting:
                    ids[unproven] = 0
                # What was numbered before may be from elsewhere, though it looked sound.
                ids[:first][ids[:first] >= base] = 0
        sure = base is not None and (base != number or asked >= _PROOF or not first)
        if base is not None:
            number = base
            ids[rows] = np.arange(base, base + last - first)
        number += last - first
        if sure:
            waiting, proven, behind = [], number, int(starts[last - 1])
        else:
            waiting.append(rows)
    return ids


def _pieces(chain: _Chain) -> Iterator[tuple[int, int, int]]:
    """(first record, behind the last, types lost before it) of what is numbered together: few enough records that a
    page in another's place shows, even where its records happen to fit to those of its neighbours."""
    lost = 0
    edges = [0, *chain.cuts, len(chain.starts)]
    for row, (first, last) in enumerate(itertools.pairwise(edges)):
        lost += chain.least[row - 1] if row else 0
        for at in range(first, last, _PIECE):
            yield at, min(at + _PIECE, last), lost
            lost = 0


def _evidence(records: Records, starts: I64, kinds: I64) -> _Evidence:
    words = records.words
    allowed = np.full(records.most + 1, _ANY, np.uint32)
    room = np.full(records.most + 1, _NO_ROOM, np.int64)
    functions = words[starts[kinds == FUNC] + 2]
    members = btf_left.members_of(records, starts, kinds)
    unnamed = members.type[members.name == 0]
    for targets, kind in ((functions, _OF_FUNCTIONS), (members.type, _OF_MEMBERS), (unnamed, _OF_UNNAMED)):
        known = targets[(targets > 0) & (targets < records.most)]
        np.bitwise_and.at(allowed, known, np.uint32(kind))
    # What two contradict each other about, one of them damaged, says nothing.
    allowed[allowed == 0] = _ANY
    told = members.room > 0
    np.minimum.at(room, members.type[told], members.room[told])
    return _Evidence(allowed, room)


def _sizes(records: Records, starts: I64, kinds: I64) -> I64:
    third = records.words[starts + 2].astype(np.int64)
    return np.where(np.isin(kinds, _SIZED), third, np.where(kinds == PTR, 8, -1))


def _asked(evidence: _Evidence, part: _Part, bases: I64) -> tuple[I64, I64]:
    """If these records had the ids from each of ``bases`` on: (how many are referred to, how many wrongly)."""
    ids = np.minimum(bases[:, None] + np.arange(len(part.bits)), len(evidence.kinds) - 1)
    kinds, room = evidence.kinds[ids], evidence.room[ids]
    asked = kinds != _ANY
    wrong = (kinds & part.bits) == 0
    # Somewhere a member follows closely: the smallest gap is the size, but for what aligns the next.
    sized = (room != _NO_ROOM) & (part.sizes >= 0)
    wrong |= sized & ((part.sizes > room) | (room >= part.sizes + _ALIGNMENT))
    return asked.sum(1), (asked & wrong).sum(1)


def _best(evidence: _Evidence, part: _Part, least: int, most: int) -> int | None:
    """The first id for these records with which what refers to them agrees; None if there is none, or several."""
    bases = np.arange(least, min(most, least + _MOST_TRIED) + 1)
    # A few records refute most numbers at once.
    first = _Part(part.bits[:_FIRST], part.sizes[:_FIRST])
    asked, wrong = _asked(evidence, first, bases)
    bases = bases[wrong <= _DOUBTFUL * asked + _LENIENT]
    asked, wrong = _asked(evidence, part, bases)
    good = (asked >= _PROOF) & (wrong <= _DOUBTFUL * asked)
    share, bases = wrong[good] / np.maximum(asked[good], 1), bases[good]
    order = np.argsort(share, kind="stable")
    if not len(order) or (len(order) > 1 and share[order[1]] == share[order[0]]):
        return None
    return int(bases[order[0]])
