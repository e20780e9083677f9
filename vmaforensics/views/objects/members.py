"""Which member of a structure lies at an offset, and which structure the objects of a cache are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.kernel.structures.layout import Field, Types

_DEPTH = 8
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


def member_at(types: Types, struct: str, offset: int, *, innermost: bool = False) -> str | None:
    """The member at ``offset`` bytes into ``struct`` as a path; None where there is none.

    Of members that overlap, as in a union, one that begins there, and of those the smallest. A structure that begins at
    the offset is named itself, or, with ``innermost``, the member of it that does.

    >>> member_at(types, "vm_area_struct", 0x10)
    'vm_mm'
    """
    path = ""
    for _ in range(_DEPTH):
        found = _at(types, struct, offset)
        if found is None:
            return path or None
        name, field = found
        path += ("." if path else "") + name
        offset -= field.offset
        if field.count is not None and field.size:
            path += f"[{offset // field.size}]"
            offset %= field.size
        if field.pointer or not field.struct or (offset == 0 and not innermost):
            break
        struct = field.struct
    return path if offset == 0 else f"{path}+{offset:#x}"


def begins_at(types: Types, struct: str, offset: int) -> str | None:
    """As :func:`member_at`, but only a member that begins just there; the innermost."""
    path = member_at(types, struct, offset, innermost=True)
    return None if path is None or "+" in path else path


def _at(types: Types, struct: str, offset: int) -> tuple[str, Field] | None:
    """The name and place of the member of ``struct`` that holds the byte at ``offset``."""
    layout = types.struct(struct)
    if layout is None:
        return None
    holding = [
        (name, field)
        for name, field in layout.fields.items()
        if field.offset <= offset < field.offset + max(field.extent, 1)
    ]
    if struct == "page":
        holding = [pair for pair in holding if pair[0] in _OF_PAGES] or holding
    return min(holding, key=lambda pair: _rank(pair[0], pair[1], offset), default=None)


def _rank(name: str, field: Field, offset: int) -> tuple[bool, bool, bool, int]:
    """Of members that overlap, the lowest is named: padding is named last."""
    return name.strip("_").startswith(_PADDING), field.offset != offset, field.bit_size > 0, field.extent
