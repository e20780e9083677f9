"""What a lock is of: the structure or variable that it lies in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.objects.explain import explain
from vmaforensics.views.objects.members import member_at
from vmaforensics.views.objects.places import Place
from vmaforensics.views.objects.surroundings import read_surroundings
from vmaforensics.views.slab.objects import State

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.kernel.structures.layout import Types
    from vmaforensics.views.objects.explain import Meaning
    from vmaforensics.views.processes.tasks import Tasks


def lock_names(kernel: Kernel, tasks: Tasks, addresses: U64) -> dict[int, str]:
    """``mmap_lock of pid 88 (bash)``, ``i_mmap_rwsem of inode 12, /usr/bin/awk``, ``cgroup_mutex`` … for each address.

    Fit to be shown. What leads to nothing that is known has no name.
    """
    if not len(addresses):
        return {}
    try:
        meanings = explain(read_surroundings(kernel, tasks), addresses)
    except KernelNotFoundError:
        return {}
    named = {meaning.value: _name(kernel.types, meaning) for meaning in meanings}
    return {address: name for address, name in named.items() if name}


def _name(types: Types, meaning: Meaning) -> str:
    """The name of a lock that lies at a value; "" for none."""
    if meaning.place == Place.STACK:
        return f"on the {meaning.text}"
    if meaning.place == Place.SYMBOL:
        return meaning.text.split("/", 1)[0].removesuffix("+0x0")
    if meaning.place != Place.OBJECT:
        return ""
    if meaning.struct is None:
        return f"{meaning.cache} {meaning.object:#x}+{meaning.offset:#x}"
    member = meaning.member or member_at(types, meaning.struct, meaning.offset) or f"+{meaning.offset:#x}"
    detail = meaning.detail or f"{meaning.struct} {meaning.object:#x}"
    joined = detail if detail.startswith("of ") else f"of {detail}"
    return f"{member.rsplit('.', 1)[-1]} {joined}" + (", which is freed" if meaning.state == State.FREE else "")


def addresses_of(*columns: U64) -> U64:
    """The distinct addresses of ``columns``, 0 left out."""
    found = np.unique(np.concatenate(columns))
    named: U64 = found[found != 0]
    return named
