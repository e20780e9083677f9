"""Which member of a structure lies at an offset, and which structure the objects of a cache are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.kernel.structures.layout import Field, Types

_DEPTH = 8
_OR: Final = "|"  # between members that overlap
_MOST_OVERLAID: Final = 4
# What takes the place of other members when an object is given back.
_GIVEN_BACK: Final = ("callback_head", "rcu_head")
# Pointers that are numbers by their type: the parent of a node, with its colour (include/linux/rbtree_types.h).
_DISGUISED: Final = {("rb_node", "__rb_parent_color"): "rb_node"}
_FREE_POINTER: Final = "freeptr"  # in names of members, of caches with SLAB_TYPESAFE_BY_RCU (6.12)
_PADDING: Final = ("pad", "filler", "unused", "pt_pad", "compound_pad", "pp_mapping_pad")
# Caches whose name is not that of the structure (kmem_cache_create of each).
_STRUCTS: Final = {
    "signal_cache": "signal_struct",
    "sighand_cache": "sighand_struct",
    "files_cache": "files_struct",
    "fs_cache": "fs_struct",
    "cred_jar": "cred",
    "filp": "file",
    "inode_cache": "inode",
    "proc_inode_cache": "proc_inode",
    "shmem_inode_cache": "shmem_inode_info",
    "sock_inode_cache": "socket_alloc",
    "ext4_inode_cache": "ext4_inode_info",
    "squashfs_inode_cache": "squashfs_inode_info",
    "bdev_cache": "bdev_inode",
    "mnt_cache": "mount",
    "kernfs_node_cache": "kernfs_node",
    "radix_tree_node": "xa_node",
    "skbuff_head_cache": "sk_buff",
    "file_lock_cache": "file_lock",
    "fasync_cache": "fasync_struct",
    "eventpoll_epi": "epitem",
    "eventpoll_pwq": "eppoll_entry",
    "UNIX": "unix_sock",
    "UNIX-STREAM": "unix_sock",
    "TCP": "tcp_sock",
    "TCPv6": "tcp6_sock",
    "UDP": "udp_sock",
    "UDPv6": "udp6_sock",
    "numa_policy": "mempolicy",
    "mqueue_inode_cache": "mqueue_inode_info",
    "proc_dir_entry": "proc_dir_entry",
    "key_jar": "key",
    "uid_cache": "user_struct",
    "iint_cache": "integrity_iint_cache",
}
# Objects that are smaller than their type: a task_struct has as much FPU state as the CPU (arch_task_struct_size), a
# kmem_cache as many nodes as there are.
_CUT_SHORT: Final = ("task_struct", "kmem_cache")
# What the words of a struct page mean most often, where several of its forms overlap.
_OF_PAGES: Final = ("flags", "lru", "mapping", "index", "__folio_index", "private", "_mapcount", "_refcount")


def struct_of_cache(kernel: Kernel, name: str, object_size: int) -> str | None:
    """The structure that the objects of the cache ``name`` are; None if the types have none that fits into them."""
    struct = _STRUCTS.get(name, name)
    layout = kernel.types.struct(struct)
    if layout is None or layout.size <= 0:
        return None
    return struct if layout.size <= object_size or struct in _CUT_SHORT else None


class _Path(NamedTuple):
    """A way into a structure to a byte of it."""

    named: str  # as far as what begins at the byte
    deep: str  # to the innermost member
    pointer: bool  # which is one
    begins: bool  # it begins at the byte


def member_at(
    types: Types, struct: str, offset: int, *, innermost: bool = False, unused: Collection[str] = ()
) -> str | None:
    """The member at ``offset`` bytes into ``struct`` as a path; None where there is none.

    Of members that overlap, as in a union, one that begins there, and of those the smallest. If one of them is a
    pointer, all are told, as in ``d_wait|d_lru``: the type does not say which is meant. Left out are ``unused`` ones,
    and what the place is used for once the object is given back. A structure that begins at the offset is named itself,
    or, with ``innermost``, the member of it that does.

    >>> member_at(types, "vm_area_struct", 0x10)
    'vm_mm'
    """
    found = _paths(types, struct, offset, unused, _DEPTH)
    paths = list(_distinct(path for path in found if path.begins)) or found
    if not any(path.pointer for path in paths):
        paths = paths[:1]
    return _OR.join(path.deep if innermost else path.named for path in paths[:_MOST_OVERLAID]) or None


def _distinct(paths: Iterable[_Path]) -> Iterator[_Path]:
    """Those that do not say another's words again: ``__d_name`` and ``d_name``, ``csum`` and ``headers.csum``."""
    seen: set[tuple[str, ...]] = set()
    for path in paths:
        names = tuple(name.strip("_") for name in path.deep.split("."))
        if names not in seen and names[1:] not in seen:
            yield path
        seen.add(names)


def _paths(types: Types, struct: str, offset: int, unused: Collection[str], depth: int) -> list[_Path]:
    """The members that lie at ``offset``, the smallest first."""
    found: list[_Path] = []
    for name, field in _holding(types, struct, offset, unused):
        here, within = name, offset - field.offset
        if field.count is not None and field.size:
            here += f"[{within // field.size}]"
            within %= field.size
        named = here if within == 0 else ""
        inside = (
            _paths(types, field.struct, within, (), depth - 1) if field.struct and not field.pointer and depth else []
        )
        found += [path._replace(named=named or f"{here}.{path.named}", deep=f"{here}.{path.deep}") for path in inside]
        if not inside:
            text = named or f"{here}+{within:#x}"
            found.append(_Path(text, text, field.pointer, within == 0))
    return found


def begins_at(types: Types, struct: str, offset: int) -> str | None:
    """As :func:`member_at`, but only a member that begins just there; the innermost."""
    path = member_at(types, struct, offset, innermost=True)
    return None if path is None or "+" in path else path


def pointed_to(types: Types, struct: str, offset: int, unused: Collection[str] = ()) -> str | None:
    """The structure that the pointer ``offset`` bytes into ``struct`` leads to; None where no such pointer stands.

    Members that are ``unused`` are left out. Links count as pointers to links: ``list_head`` to ``list_head``,
    ``rb_node`` to ``rb_node``.
    """
    for _ in range(_DEPTH):
        layout = types.struct(struct)
        if layout is None:
            return None
        inner, base = "", 0
        for name, field in layout.fields.items():
            if name in unused:
                continue
            if field.offset == offset and (struct, name) in _DISGUISED:
                return _DISGUISED[struct, name]
            if field.pointer and field.offset == offset and field.struct and not field.bit_size:
                return field.struct
            if field.struct and not field.pointer and field.offset <= offset < field.offset + field.extent:
                inner, base = field.struct, field.offset
                if field.count is not None and field.size:
                    base += (offset - base) // field.size * field.size
        if not inner:
            return None
        struct, offset, unused = inner, offset - base, ()
    return None


def holds_at(types: Types, struct: str, offset: int, wanted: str) -> bool:
    """Is what begins ``offset`` bytes into ``struct`` a ``wanted``: the structure itself, or one inside of it?"""
    for _ in range(_DEPTH):
        if not offset and struct == wanted:
            return True
        layout = types.struct(struct)
        holding = (
            []
            if layout is None
            else [
                field
                for field in layout.fields.values()
                if field.struct and not field.pointer and field.offset <= offset < field.offset + field.extent
            ]
        )
        if any(field.offset == offset and field.struct == wanted for field in holding):
            return True
        if not holding:
            return False
        field = max(holding, key=lambda field: field.offset)
        within = offset - field.offset
        struct, offset = field.struct or "", within % field.size if field.count is not None and field.size else within
    return False


def _holding(types: Types, struct: str, offset: int, unused: Collection[str]) -> list[tuple[str, Field]]:
    """The members of ``struct`` that hold the byte at ``offset``, those first that begin there, then the smallest."""
    layout = types.struct(struct)
    if layout is None:
        return []
    holding = [
        (name, field)
        for name, field in layout.fields.items()
        if field.offset <= offset < field.offset + max(field.extent, 1) and name not in unused
    ]
    if struct == "page":
        holding = [pair for pair in holding if pair[0] in _OF_PAGES] or holding
    else:
        holding = [pair for pair in holding if not _is_unused(*pair)] or holding
    holding.sort(key=lambda pair: _rank(pair[0], pair[1], offset))
    return holding[:1] if struct == "page" else holding


def _is_unused(name: str, field: Field) -> bool:
    """Padding, and what a place is used for once the object is given back."""
    return name.strip("_").startswith(_PADDING) or field.struct in _GIVEN_BACK or _FREE_POINTER in name


def _rank(name: str, field: Field, offset: int) -> tuple[bool, bool, bool, int]:
    """Of members that overlap, the lowest is named first: padding is named last."""
    return name.strip("_").startswith(_PADDING), field.offset != offset, field.bit_size > 0, field.extent
