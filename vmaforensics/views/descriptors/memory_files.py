"""Files that live in memory only: every inode of tmpfs, hugetlbfs and secretmem, mapped by anyone or not.

memfds, System V segments and shared anonymous memory are inodes of a tmpfs that only the kernel mounts
(``shm_mnt``, mm/shmem.c); a descriptor or a segment number keeps them when no VMA maps them any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.columns.table import Table, column, member, table
from vmaforensics.columns.types import U8, U32, U64, Bools
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.descriptors.content import Content, contents
from vmaforensics.views.pages.page_types import PageReader
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.structures.xarray import first_pointers
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel


@table()
class MemoryFiles(Table):
    """A file in memory with content; by address of the inode."""

    inode: U64
    mapping: U64  # address_space
    internal: Bools  # on a mount of the kernel's own: no path leads there
    nlink: U32
    size: U64  # bytes
    pages: U64  # in the page cache; hugetlbfs does not count
    mapped: Bools  # some VMA is in i_mmap
    page: U64  # struct page of the first page held
    index: U64  # of that page in the file
    pa: U64  # physical address of that page
    content: U8 = column(fill=Content.NONE)  # Content of that page


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFiles:
    """What :func:`read_memory_files` found."""

    files: MemoryFiles
    names: list[bytes | None]  # of the first dentry of each (``memfd:NAME``, ``SYSV00000000``), None without any
    whole: bool  # every list was followed to its end


@table(struct="super_block")
class _SuperBlocks(Table):
    """A mounted file system."""

    address: U64
    magic: U64 = member("s_magic")
    flags: U64 = member("s_flags")


@table(struct="inode")
class _Inodes(Table):
    """What is read of an inode."""

    address: U64
    mapping: U64 = member("i_mapping")
    super_block: U64 = member("i_sb")
    nlink: U32 = member("i_nlink")
    size: U64 = member("i_size")
    alias: U64 = member("i_dentry.first")  # the alias list node of its first dentry


@table(struct="address_space")
class _Mappings(Table):
    """What is read of an address_space."""

    pages: U64 = member("nrpages")
    head: U64 = member("i_pages.xa_head")
    first_vma: U64 = member("i_mmap.rb_root.rb_node")


# include/uapi/linux/magic.h: TMPFS_MAGIC, HUGETLBFS_MAGIC, SECRETMEM_MAGIC
_MAGICS = (0x01021994, 0x958458F6, 0x5345434D)
_SB_KERNMOUNT = np.uint64(1 << 22)  # include/linux/fs.h
_MOST_SUPERS = 1 << 16
_MOST_INODES = 1 << 22
_HEAD = 256  # bytes that tell the content
_BATCH = 1 << 10  # pages looked at together
_MOST_PFN = np.uint64(1 << 40)


def read_memory_files(kernel: Kernel, opened: U64, log: ProblemLog) -> FoundFiles:
    """Every inode with content of a file system that lives in memory.

    ``opened`` are inodes of open files: those of memfd_secret are on no list (``alloc_anon_inode``, fs/libfs.c).
    Contents are looked at of those only that neither a path nor a VMA leads to. Problems carry the view
    ``HANDLES`` and no mm.
    """
    supers, supers_whole = _super_blocks(kernel, log)
    inodes, inodes_whole = _inodes(kernel, supers.address, log)
    inodes = _with_opened(kernel, inodes, supers.address, opened)
    mappings, held = kernel.gather(_Mappings, inodes.mapping)
    # hugetlbfs keeps no nrpages (__filemap_add_folio), but the array is not empty.
    keep = np.flatnonzero(held & ((mappings.pages != 0) | (mappings.head != 0)))
    inodes, mappings = inodes.take(keep), mappings.take(keep)
    page, index = first_pointers(kernel, mappings.head)
    rows = MemoryFiles(
        inode=inodes.address,
        mapping=inodes.mapping,
        internal=np.isin(inodes.super_block, supers.address[(supers.flags & _SB_KERNMOUNT) != 0]),
        nlink=inodes.nlink,
        size=inodes.size,
        pages=mappings.pages,
        mapped=mappings.first_vma != 0,
        page=page,
        index=index,
        pa=np.zeros(len(keep), np.uint64),
        content=np.zeros(len(keep), np.uint8),
    )
    _look(kernel, rows)
    return FoundFiles(files=rows, names=_names(kernel, inodes.alias), whole=supers_whole and inodes_whole)


def _super_blocks(kernel: Kernel, log: ProblemLog) -> tuple[_SuperBlocks, bool]:
    """``(super blocks, whole)`` of the file systems that live in memory, by address."""
    head = kernel.symbols.get("super_blocks")
    if head is None:
        kernel.identity.problems.append("the symbol super_blocks is unknown: files in memory were not looked for")
        return _SuperBlocks.zeros(0), False
    links, whole = _follow(kernel, np.array([head], np.uint64), _MOST_SUPERS, log)
    addresses = np.sort(links) - np.uint64(kernel.offset("super_block", "s_list"))
    rows, ok = kernel.gather(_SuperBlocks, addresses)
    rows.address[:] = addresses
    log.add(View.HANDLES, Problem.UNREADABLE, 0, addresses[~ok])
    return rows.take(ok & np.isin(rows.magic, np.array(_MAGICS, np.uint64))), whole and bool(ok.all())


def _inodes(kernel: Kernel, supers: U64, log: ProblemLog) -> tuple[_Inodes, bool]:
    """``(inodes, whole)`` of all super blocks, by address; those that could not be read are left out."""
    heads = supers + np.uint64(kernel.offset("super_block", "s_inodes"))
    links, whole = _follow(kernel, heads, _MOST_INODES, log)
    addresses = distinct(links) - np.uint64(kernel.offset("inode", "i_sb_list"))
    rows, ok = kernel.gather(_Inodes, addresses)
    rows.address[:] = addresses
    log.add(View.HANDLES, Problem.UNREADABLE, 0, addresses[~ok])
    return rows.take(ok), whole


def _with_opened(kernel: Kernel, inodes: _Inodes, supers: U64, opened: U64) -> _Inodes:
    """``inodes`` and those of ``opened`` that lie on one of ``supers``, by address."""
    addresses = distinct(opened)
    addresses = addresses[kernel.arch.kernel_pointer(addresses) & ~np.isin(addresses, inodes.address)]
    rows, ok = kernel.gather(_Inodes, addresses)
    rows.address[:] = addresses
    every = _Inodes.concatenate([inodes, rows.take(ok & np.isin(rows.super_block, supers))])
    return every.sort_by(every.address)


def _follow(kernel: Kernel, heads: U64, most: int, log: ProblemLog) -> tuple[U64, bool]:
    """``(elements, whole)`` of the ``list_head`` lists at ``heads``, all lists a step at a time.

    Elements are in the order in which they were met. ``whole`` is False where a list could not be followed to its
    head, or has more than ``most`` elements in all.
    """
    found: list[int] = []
    ends = set(heads.tolist())
    seen = set(ends)
    here, whole = heads, True
    while len(here) and len(found) < most:
        words, ok = kernel.words(here, 1)
        after = words[:, 0]
        wild = ok & ~kernel.arch.kernel_pointer(after)
        new = np.array([address not in seen for address in after.tolist()], np.bool_)
        end = np.array([address in ends for address in after.tolist()], np.bool_)
        cycle = ok & ~wild & ~new & ~end
        if not (ok & ~wild & ~cycle).all():
            log.add(View.HANDLES, Problem.UNREADABLE, 0, here[~ok])
            log.add(View.HANDLES, Problem.NON_CANONICAL, 0, here[wild], after[wild])
            log.add(View.HANDLES, Problem.CYCLE, 0, here[cycle], after[cycle])
        live = ok & ~wild & new
        whole &= bool((live | (ok & end)).all())
        here = distinct(after[live])
        seen.update(here.tolist())
        found += here.tolist()
    if len(here):
        log.add(View.HANDLES, Problem.CUT_SHORT, 0, here, len(found))
    return np.array(found, np.uint64), whole and not len(here)


def _look(kernel: Kernel, rows: MemoryFiles) -> None:
    """Fill in ``pa`` and ``content``, the latter for files that neither a path nor a VMA leads to."""
    try:
        reader = PageReader(kernel)
    except KernelNotFoundError as error:
        kernel.identity.problems.append(f"contents of files in memory were not looked at: {error}")
        return
    pfns, known = reader.frames_of(rows.page)
    at = np.flatnonzero(known & (rows.page != 0) & (pfns < _MOST_PFN))
    rows.pa[at] = kernel.arch.bytes_of(pfns[at])
    astray = (rows.internal | (rows.nlink == 0)) & ~rows.mapped
    rows.content[rows.page != 0] = Content.NOT_IN_DUMP
    rows.content[at[~astray[at]]] = Content.UNSEEN
    at = at[astray[at]]
    for low in range(0, len(at), _BATCH):
        part = at[low : low + _BATCH]
        with kernel.memory.untraced():
            head, ok = kernel.memory.gather(rows.pa[part], _HEAD)
            part = part[ok]
            data, whole = kernel.memory.gather(rows.pa[part], kernel.arch.page_size)
        rows.content[part] = contents(head[ok])
        may_be = np.flatnonzero(np.isin(rows.content[part], (Content.OTHER, Content.TEXT)) & whole)
        rows.content[part[may_be[kernel.arch.looks_like_code(data[may_be])]]] = Content.CODE
        for pa in rows.pa[part[np.isin(rows.content[part], (Content.ELF, Content.SCRIPT, Content.CODE))]].tolist():
            kernel.memory.touch(pa, kernel.arch.page_size)


def _names(kernel: Kernel, links: U64) -> list[bytes | None]:
    """Name of the dentry whose alias list node each of ``links`` is."""
    alias = kernel.offset("dentry", "d_u.d_alias|d_alias")
    with np.errstate(over="ignore"):
        dentries = links - np.uint64(alias)
    pointers, ok = kernel.gather_member("dentry", "d_name.name|__d_name.name", dentries)
    named = np.flatnonzero(ok & kernel.arch.kernel_pointer(links))
    names: list[bytes | None] = [None] * len(links)
    for row, text in zip(named.tolist(), kernel.strings(pointers[named]), strict=True):
        names[row] = text
    return names
