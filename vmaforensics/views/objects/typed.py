"""What objects are of which the allocator knows the size alone: by the types of the pointers that lead to them.

That is so for kmalloc, and for caches of several kinds of objects that the kernel has made one (slab merging).
Typed members are followed from the tasks on, a few steps far. An object that such a pointer leads to the start of is
what the pointer's type says, as long as the holder is what its own pointer said; so each claim names its holder and
member.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import difference, distinct
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I32, U64
from vmaforensics.views.objects.members import holds_at, struct_of_cache

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.kernel.structures.layout import Types
    from vmaforensics.views.processes.tasks import Tasks

_STEPS: Final = 4  # task -> files -> file -> inode -> pipe
_MOST: Final = 4096  # objects of one structure that are followed
_MOST_POINTERS: Final = 1 << 20  # that are kept
_MOST_BYTES: Final = 16 << 20  # of one structure that are read at once
_MOST_ELEMENTS: Final = 64  # of an array of pointers
_DEPTH: Final = 3  # of structures inside of others
_POINTER: Final = 8
# Not followed: what has more members than its object has room for (node[] of a kmem_cache), and the network's world.
_NOT_FOLLOWED: Final = ("kmem_cache", "net", "net_device")
# Links lead from one object into another, whatever that is; the rest are pointed to for themselves nowhere.
_NO_TYPES: Final = frozenset(
    {"list_head", "hlist_node", "hlist_head", "rb_node", "callback_head", "llist_node", "lockdep_map"}
)


class Claim(NamedTuple):
    """What a pointer says of the object that it leads to."""

    struct: str
    holder: int  # address of the structure that has the pointer
    holder_struct: str
    member: str  # path of the pointer in it

    @property
    def text(self) -> str:
        """Who says so: "as inode.i_pipe of 0xffff8bfcc289e880 has it"."""
        return f"as {self.holder_struct}.{self.member} of {self.holder:#x} has it"


class ObjectOf(NamedTuple):
    """An object, and what is known of its cache."""

    start: int
    cache: str  # its name
    size: int  # bytes of its objects
    kinds: int  # of objects that share it


class _Member(NamedTuple):
    path: str
    place: int  # the word of the structure that it is
    struct: str  # that it points to


@table()
class _Pointers(Table):
    to: U64
    holder: U64
    member: I32  # place in the list of members


class TypedPointers:
    """The pointers that were met, by where they lead."""

    def __init__(self, pointers: _Pointers, members: list[tuple[str, _Member]], types: Types) -> None:
        self._pointers = pointers.sort_by(pointers.to)
        self._members = members
        self._types = types

    def claim(self, start: int, size: int) -> Claim | None:
        """What leads to the object of ``size`` bytes at ``start``; None for nothing, and where two contradict."""
        low, high = np.searchsorted(self._pointers.to, np.array([start, start + 1], np.uint64)).tolist()
        found: dict[str, Claim] = {}
        members, first = np.unique(self._pointers.member[low:high], return_index=True)
        for place, row in zip(members.tolist(), (low + first).tolist(), strict=True):
            of, member = self._members[place]
            layout = self._types.struct(member.struct)
            if layout is not None and 0 < layout.size <= size:
                found.setdefault(member.struct, Claim(member.struct, int(self._pointers.holder[row]), of, member.path))
        return next(iter(found.values())) if len(found) == 1 else None


def struct_of(
    kernel: Kernel, pointers: Callable[[], TypedPointers], found: ObjectOf
) -> tuple[str | None, Claim | None]:
    """(the structure that an object is, the pointer that says so); no pointer where the name of its cache says it.

    Where a cache has objects of several kinds its name is that of the first of them, and a pointer knows better.
    """
    named = struct_of_cache(kernel, found.cache, found.size)
    if named is not None and found.kinds <= 1:
        return named, None
    claim = pointers().claim(found.start, found.size)
    if claim is None or (named is not None and holds_at(kernel.types, named, 0, claim.struct)):
        return named, None
    return claim.struct, claim


def follow_types(kernel: Kernel, tasks: Tasks) -> TypedPointers:
    """Follow the typed pointers of ``tasks``, those of what they lead to, and so on."""
    members: list[tuple[str, _Member]] = []
    found: list[_Pointers] = []
    met: dict[str, U64] = {}
    first = [at] if (at := kernel.symbols.get("init_task")) is not None else []
    frontier = {"task_struct": distinct(tasks.task[tasks.ok], np.array(first, np.uint64))}
    left = _MOST_POINTERS
    for _ in range(_STEPS):
        after: dict[str, list[U64]] = {}
        for struct, addresses in frontier.items():
            for member, holders, values in _pointers_in(kernel, struct, addresses) if left > 0 else ():
                left -= len(values)
                found.append(_Pointers.of(to=values, holder=holders, member=np.full(len(values), len(members))))
                members.append((struct, member))
                after.setdefault(member.struct, []).append(values)
        frontier = {}
        for struct, parts in after.items():
            known = met.get(struct, np.zeros(0, np.uint64))
            new = difference(np.concatenate(parts), known)[: _MOST - len(known)]
            if len(new) and struct not in _NOT_FOLLOWED:
                frontier[struct] = new
                met[struct] = distinct(known, new)
    return TypedPointers(_Pointers.concatenate(found), members, kernel.types)


def _pointers_in(kernel: Kernel, struct: str, addresses: U64) -> list[tuple[_Member, U64, U64]]:
    """(member, address of the structure, value) for each typed pointer in the ``struct`` at ``addresses``."""
    layout = kernel.types.struct(struct)
    members = [] if layout is None else _members(kernel.types, struct, 0, "", _DEPTH)
    if layout is None or not members:
        return []
    count = max(member.place for member in members) + 1
    addresses = addresses[: max(1, _MOST_BYTES // (count * _POINTER))]
    words, ok = kernel.words(addresses, count)
    addresses, words = addresses[ok], words[ok]
    found = []
    for member in members:
        values = words[:, member.place]
        leads = kernel.arch.kernel_pointer(values) & (values % np.uint64(_POINTER) == 0)
        if leads.any():
            found.append((member, addresses[leads], values[leads]))
    return found


def _members(types: Types, struct: str, base: int, path: str, depth: int) -> list[_Member]:
    """The pointers to structures in ``struct``; those left out that share their place with something else."""
    layout = types.struct(struct)
    if layout is None or not depth:
        return []
    fields = sorted(layout.fields.items(), key=lambda pair: pair[1].offset)
    found: list[_Member] = []
    behind = 0  # end of the members so far
    for number, (name, field) in enumerate(fields):
        end = field.offset + field.extent
        follower = fields[number + 1][1].offset if number + 1 < len(fields) else end
        alone = behind <= field.offset and follower >= end
        behind = max(behind, end)
        if not alone or field.bit_size or not field.struct or field.struct in _NO_TYPES:
            continue
        at = base + field.offset
        if not field.pointer:
            if field.count is None:
                found += _members(types, field.struct, at, f"{path}{name}.", depth - 1)
        elif field.size == _POINTER and at % _POINTER == 0:
            if field.count is None:
                found.append(_Member(f"{path}{name}", at // _POINTER, field.struct))
            else:
                found += [
                    _Member(f"{path}{name}[{row}]", at // _POINTER + row, field.struct)
                    for row in range(min(field.count, _MOST_ELEMENTS))
                ]
    return found
