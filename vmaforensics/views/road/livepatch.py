"""Live patches: ``klp_patches``, and which functions each replaces by which (kernel/livepatch/core.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U64
from vmaforensics.views.structures.circular_lists import follow_list

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_MOST: Final = 1 << 12  # patches
_MOST_PARTS: Final = 1 << 16  # objects and functions of all patches


@table(struct="klp_func")
class Replaced(Table):
    """A function that a live patch replaces."""

    patch: U64  # address of the klp_patch
    module: U64  # that it is of
    record: U64  # address of the klp_func
    old_func: U64 = member("old_func")
    new_func: U64 = member("new_func")


class FoundPatches(NamedTuple):
    """See :func:`find_replaced`."""

    replaced: Replaced
    whole: bool  # every list was read to its end


def find_replaced(kernel: Kernel) -> FoundPatches:
    """Every function of every patch that is loaded."""
    found = [Replaced.zeros(0)]
    head = kernel.symbols.get("klp_patches")
    needed = (("klp_patch", "obj_list"), ("klp_object", "func_list"), ("klp_func", "node"))
    if head is None or not all(kernel.has(*path) for path in needed):
        return FoundPatches(found[0], whole=True)
    patches, whole = follow_list(kernel, head, _MOST)
    room = _MOST_PARTS
    for patch in (patches - np.uint64(kernel.offset("klp_patch", "list"))).tolist():
        modules, known = kernel.gather_member("klp_patch", "mod", np.array([patch], np.uint64))
        objects, objects_whole = follow_list(kernel, patch + kernel.offset("klp_patch", "obj_list"), room)
        room -= len(objects)
        whole &= bool(known[0]) and objects_whole
        for part in (objects - np.uint64(kernel.offset("klp_object", "node"))).tolist():
            places, places_whole = follow_list(kernel, part + kernel.offset("klp_object", "func_list"), room)
            room -= len(places)
            records = places - np.uint64(kernel.offset("klp_func", "node"))
            rows, ok = kernel.gather(Replaced, records)
            whole &= places_whole and bool(ok.all())
            rows.patch[:], rows.module[:], rows.record[:] = patch, modules[0], records
            found.append(rows.take(ok))
    return FoundPatches(Replaced.concatenate(found), whole)
