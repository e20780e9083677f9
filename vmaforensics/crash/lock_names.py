"""What a lock is of: the structure or variable that it lies in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vmaforensics.views.locks.vma_locks import write_locked
from vmaforensics.views.objects.explain import explain
from vmaforensics.views.objects.maps import read_map, vma_texts
from vmaforensics.views.objects.members import member_at
from vmaforensics.views.objects.places import Place
from vmaforensics.views.slab.objects import State

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64
    from vmaforensics.kernel.structures.layout import Types
    from vmaforensics.views.objects.explain import Meaning
    from vmaforensics.views.objects.surroundings import Surroundings

_MOST_VMAS: Final = 100  # of one process


def lock_names(surroundings: Surroundings, addresses: U64) -> dict[int, str]:
    """``mmap_lock of pid 88 (bash)``, ``i_mmap_rwsem of inode 12, /usr/bin/awk``, ``cgroup_mutex`` … for each address.

    Fit to be shown. What leads to nothing that is known has no name.
    """
    meanings = explain(surroundings, addresses)
    named = {meaning.value: _name(surroundings.kernel.types, meaning) for meaning in meanings}
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
    if meaning.struct == "vm_area_struct" and not meaning.offset and meaning.detail:
        return f"VMA {meaning.detail}"
    member = meaning.member or member_at(types, meaning.struct, meaning.offset) or f"+{meaning.offset:#x}"
    detail = meaning.detail or f"{meaning.struct} {meaning.object:#x}"
    joined = detail if detail.startswith("of ") else f"of {detail}"
    return f"{member.rsplit('.', 1)[-1]} {joined}" + (", which is freed" if meaning.state == State.FREE else "")


def write_locked_texts(surroundings: Surroundings, mm: int) -> list[str]:
    """The VMAs of ``mm`` that the writer who holds its mmap lock has locked; fit to be shown."""
    vmas = write_locked(surroundings.kernel, mm, read_map(surroundings, mm).entries.vma)[:_MOST_VMAS]
    return [text for text in vma_texts(surroundings, vmas) if text] if len(vmas) else []
