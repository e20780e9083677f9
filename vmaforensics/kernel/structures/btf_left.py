"""What can be told of types whose records are lost, by what is left: the members of a structure on the page before the
lost one, and the members of other structures that have the type.

A member ends where the next begins. Where many have one type, some lie without a gap, so that the smallest distance is
its size: of the types of all that a sound kernel has, it is wrong of one in a hundred, nearly all of them empty.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.ragged import expand
from vmaforensics.kernel.structures.btf_records import ALIASES, ARRAY, HEAD, INT, PTR, STRUCT, UNION

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, U32, Bools
    from vmaforensics.kernel.structures.btf_records import Records

_LEAST_USES = 4  # members that have the type
_LEAST_ALIKE = 2  # of them, that leave it the least room
_SCALARS = (1, 2, 4, 8)  # bytes
_POINTER = 8  # bytes
_ALIASES_OF = 5  # doublings of the way along typedefs and qualifiers: as long as nobody writes one by hand

# Types of include/linux/types.h, which lie with the first of any kernel's: their members, pointers or one that is the
# whole, and a name which of all types of that size only members of this one have often.
_COMMON = (
    ("list_head", ("next", "prev"), "list"),
    ("callback_head", ("next", "func"), "rcu"),
    ("hlist_node", ("next", "pprev"), "hlist"),
    ("hlist_head", ("first",), "i_dentry"),
    ("atomic_t", ("counter",), "mm_users"),
    ("atomic64_t", ("counter",), "pinned_vm"),
)
_TEXTS = ("comm",)  # members that are arrays of characters


class Members(NamedTuple):
    """Members of all structures and unions, a row each."""

    name: U32
    type: I64  # id, below ``Records.most``
    room: I64  # bytes up to the next, or the end; 0 where that is not told in bytes


def members_of(records: Records, starts: I64, kinds: I64) -> Members:
    """All members that lie in the records at these words; the kind of each is given."""
    words = records.words
    rows = np.flatnonzero((kinds == STRUCT) | (kinds == UNION))
    count = records.counts(starts[rows])
    row, place = expand(count)
    struct = starts[rows][row]
    at = struct + HEAD + 3 * place
    # In bit fields there are no bytes to count, and members of a union all begin where it does.
    plain = (kinds[rows][row] == STRUCT) & (words[struct + 1] >> np.uint32(31) == 0)
    offset = words[at + 2].astype(np.int64)
    behind = np.where(place == count[row] - 1, words[struct + 2].astype(np.int64) * 8, np.roll(offset, -1))
    gap = (behind - offset) // 8
    types = words[at + 1].astype(np.int64)
    sane = (types > 0) & (types < records.most)
    return Members(words[at][sane], types[sane], np.where(plain & (gap > 0), gap, 0)[sane])


# A structure in part ------------------------------------------------------------------------------------------


def leading(records: Records, at: int, end: int) -> int:
    """How many members of the structure at word ``at`` are as they should be, if its head is; up to word ``end``."""
    head = np.array([at])
    if int(records.kinds(head)[0]) != STRUCT or not records.heads(head)[0]:
        return 0
    sound = _sound(records, at + HEAD, (end - at - HEAD) // 3, bitfields=bool(records.words[at + 1] >> np.uint32(31)))
    return len(sound) if sound.all() else int(np.argmin(sound))


def cut_to(records: Records, at: int, left: int) -> int:
    """Let the structure at word ``at`` have its first ``left`` members alone, if those behind lie on a page of zeros or
    one that is not held; how many words that are, or 0. Of a page from elsewhere nobody knows where it begins."""
    stated = int(records.counts(np.array([at]))[0]) if left else 0
    if not stated or (left < stated and records.words[at + HEAD + 3 * left : at + HEAD + 3 * left + 3].any()):
        return 0
    left = min(left, stated)
    records.words[at + 1] = np.uint32(int(records.words[at + 1]) & 0xFF000000 | left)
    return HEAD + 3 * left


def _sound(records: Records, start: int, count: int, *, bitfields: bool) -> Bools:
    """Which of ``count`` members from word ``start`` on can be what they should, and lie behind the one before."""
    members = records.words[start : start + 3 * count].reshape(-1, 3)
    offsets = members[:, 2] & np.uint32(0xFFFFFF) if bitfields else members[:, 2]
    good: Bools = records.names(members[:, 0]) & (members[:, 1] > 0) & (members[:, 1] < records.most)
    good[1:] &= offsets[1:] >= offsets[:-1]
    return good


# Types by their use -------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class StandIns:
    """Records that stand in for lost ones, behind all others."""

    at: int  # the word that the next begins at
    free: int  # a type id that nothing refers to
    words: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

    def add(self, type_id: int, *record: int) -> int:
        """Let this record be the type; with 0, a type of its own. Its id."""
        type_id, self.free = (type_id, self.free) if type_id else (self.free, self.free + 1)
        self.starts.append(self.at + len(self.words))
        self.ids.append(type_id)
        self.words += [word & 0xFFFFFFFF for word in record]
        return type_id


def stand_ins(records: Records, starts: I64, ids: I64, strings: bytes) -> StandIns:
    """Records for types that no record is proven to be, as far as the members that have them say what they are."""
    found = StandIns(at=len(records.words), free=records.most)
    kinds = records.kinds(starts)
    members = members_of(records, starts, kinds)
    members = members._replace(type=_meant(records, starts, kinds, ids)[members.type])
    size = _sizes_by_use(members, records.most, ids)

    def named(name: str) -> int:
        return strings.find(b"\0" + name.encode() + b"\0") + 1

    def users(name: str) -> list[int]:
        of_name = (members.name == named(name)) & (size[members.type] > 0) & (named(name) > 0)
        lost: list[int] = members.type[of_name].tolist()
        return lost

    for name, parts, told_by in _COMMON:
        whole = _POINTER * len(parts) if len(parts) > 1 else 0
        of_size = [lost for lost in users(told_by) if not whole or size[lost] == whole]
        if not of_size or not all(map(named, parts)):
            continue
        lost = max(sorted(set(of_size)), key=of_size.count)
        each = int(size[lost]) // len(parts)
        if each not in _SCALARS:
            continue
        inner = found.add(0, 0, PTR << 24, 0) if whole else found.add(0, 0, INT << 24, each, 8 * each)
        words = [word for row, part in enumerate(parts) for word in (named(part), inner, 8 * each * row)]
        found.add(lost, named(name), STRUCT << 24 | len(parts), each * len(parts), *words)
        size[lost] = 0
    for lost in sorted({lost for name in _TEXTS for lost in users(name) if size[lost] not in _SCALARS}):
        character = found.add(0, 0, INT << 24, 1, 8)
        found.add(lost, 0, ARRAY << 24, 0, character, character, int(size[lost]))
        size[lost] = 0
    for lost in np.flatnonzero(np.isin(size, _SCALARS)).tolist():
        found.add(lost, 0, INT << 24, int(size[lost]), 8 * int(size[lost]))
    return found


def _meant(records: Records, starts: I64, kinds: I64, ids: I64) -> I64:
    """The type that each id is another name or a qualified form of, by id; its own, of all others."""
    meant = np.arange(records.most, dtype=np.int64)
    aliases = np.isin(kinds, sorted(ALIASES)) & (ids > 0) & (ids < len(meant))
    meant[ids[aliases]] = np.minimum(records.words[starts[aliases] + 2].astype(np.int64), len(meant) - 1)
    for _ in range(_ALIASES_OF):
        meant = meant[meant]
    return meant


def _sizes_by_use(members: Members, most: int, ids: I64) -> I64:
    """Bytes of each type id that no record is proven to be; 0 where too few members say so."""
    counted = members.room > 0
    types, room = members.type[counted], members.room[counted]
    order = np.lexsort((room, types))
    types, room = types[order], room[order]
    first = np.flatnonzero(np.diff(types, prepend=-1) != 0)
    uses = np.diff(first, append=len(types))
    second = np.minimum(first + _LEAST_ALIKE - 1, len(types) - 1)
    sure = (uses >= _LEAST_USES) & (room[second] == room[first])
    size = np.zeros(most, np.int64)
    size[types[first][sure]] = room[first][sure]
    size[ids[ids < most]] = 0
    size[0] = 0
    return size
