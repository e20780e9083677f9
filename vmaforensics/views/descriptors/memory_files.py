"""Files that live in memory only: every inode of tmpfs, hugetlbfs and secretmem, mapped by anyone or not.

memfds, System V segments and shared anonymous memory are inodes of a tmpfs that only the kernel mounts
(``shm_mnt``, mm/shmem.c); a descriptor or a segment number keeps them when no area maps them any more.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import KernelNotFoundError
from vmaforensics.image.memory import PAGE_SHIFT
from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.views.pages.page_types import PageReader
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.structures.xarray import first_pointers
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel

MEMORY_FILES = np.dtype(
    [
        ("inode", np.uint64),
        ("mapping", np.uint64),  # address_space
        ("super", np.uint64),
        ("internal", np.bool_),  # on a mount of the kernel's own: no path leads there
        ("ino", np.uint64),
        ("nlink", np.uint32),
        ("mode", np.uint16),
        ("size", np.uint64),  # bytes
        ("pages", np.uint64),  # in the page cache; hugetlbfs does not count
        ("mapped", np.bool_),  # some area is in i_mmap
        ("page", np.uint64),  # struct page of the first page held
        ("index", np.uint64),  # of that page in the file
        ("pa", np.uint64),  # physical address of that page
        ("content", np.uint8),  # Content of that page
    ]
)


class Content(IntEnum):
    """What a page begins with."""

    NONE = 0  # no page is held: empty, or swapped out
    NOT_IN_DUMP = 1
    ZERO = 2
    ELF = 3
    SCRIPT = 4
    TEXT = 5
    OTHER = 6
    UNSEEN = 7  # was not looked at: the file has a path, or an area shows it

    @property
    def label(self) -> str:
        """The content in words."""
        return ("none", "not in the dump", "zeros", "ELF", "script", "text", "other", "not looked at")[self]


# include/uapi/linux/magic.h: TMPFS_MAGIC, HUGETLBFS_MAGIC, SECRETMEM_MAGIC
_MAGICS = (0x01021994, 0x958458F6, 0x5345434D)
_SB_KERNMOUNT = 1 << 22  # include/linux/fs.h
_MOST_SUPERS = 1 << 16
_MOST_INODES = 1 << 22
_HEAD = 256  # bytes that tell the content


def read_memory_files(kernel: Kernel, log: ProblemLog) -> tuple[NDArray[np.void], list[bytes | None], bool]:
    """``(rows, names, whole)``: dtype ``MEMORY_FILES`` sorted by inode, those with content in memory.

    Names are those of the first dentry (``memfd:NAME``, ``SYSV00000000``), None where there is none.
    ``whole`` is False if a list could not be followed to its end.
    """
    supers, whole = _supers(kernel, log)
    inodes, more = _inodes(kernel, supers["super"], log)
    whole &= more
    got, ok = kernel.gather(
        "inode", inodes, ["i_mapping", "i_sb", "i_ino", "i_nlink", "i_mode", "i_size", "i_dentry.first"]
    )
    log.add(View.HANDLES, Problem.UNREADABLE, 0, inodes[~ok])
    cache, held = kernel.gather(
        "address_space", got["i_mapping"], ["nrpages", "i_pages.xa_head", "i_mmap.rb_root.rb_node"]
    )
    # hugetlbfs keeps no nrpages (__filemap_add_folio), but the array is not empty.
    keep = np.flatnonzero(ok & held & ((cache["nrpages"] != 0) | (cache["i_pages.xa_head"] != 0)))
    got, cache = got[keep], cache[keep]
    rows = np.zeros(len(keep), MEMORY_FILES)
    rows["inode"], rows["mapping"], rows["super"] = inodes[keep], got["i_mapping"], got["i_sb"]
    rows["internal"] = np.isin(got["i_sb"], supers["super"][supers["internal"]])
    for column in ("ino", "nlink", "mode", "size"):
        rows[column] = got[f"i_{column}"]
    rows["pages"], rows["mapped"] = cache["nrpages"], cache["i_mmap.rb_root.rb_node"] != 0
    rows["page"], rows["index"] = first_pointers(kernel, cache["i_pages.xa_head"])
    _look(kernel, rows)
    names = _names(kernel, got["i_dentry.first"])
    return rows, names, whole


def _supers(kernel: Kernel, log: ProblemLog) -> tuple[NDArray[np.void], bool]:
    """Super blocks of file systems that live in memory: columns super and internal."""
    head = kernel.symbols.get("super_blocks")
    base = kernel.offset("super_block", "s_list")
    found, whole = [], head is not None
    if head is None:
        kernel.identity.problems.append("the symbol super_blocks is unknown: files in memory were not looked for")
    else:
        lists, whole = _follow(kernel, np.array([head], np.uint64), _MOST_SUPERS, log)
        found = [one - base for one in lists]
    addresses = np.array(found, np.uint64)
    got, ok = kernel.gather("super_block", addresses, ["s_magic", "s_flags"])
    log.add(View.HANDLES, Problem.UNREADABLE, 0, addresses[~ok])
    good = ok & np.isin(got["s_magic"].astype(np.uint64), np.array(_MAGICS, np.uint64))
    rows = np.zeros(int(good.sum()), [("super", np.uint64), ("internal", np.bool_)])
    rows["super"] = addresses[good]
    rows["internal"] = (got["s_flags"][good].astype(np.uint64) & np.uint64(_SB_KERNMOUNT)) != 0
    return np.sort(rows, order="super"), whole and bool(ok.all())


def _inodes(kernel: Kernel, supers: NDArray[np.uint64], log: ProblemLog) -> tuple[NDArray[np.uint64], bool]:
    heads = supers + np.uint64(kernel.offset("super_block", "s_inodes"))
    links, whole = _follow(kernel, heads, _MOST_INODES, log)
    return np.unique(np.array(links, np.uint64) - np.uint64(kernel.offset("inode", "i_sb_list"))), whole


def _follow(kernel: Kernel, heads: NDArray[np.uint64], most: int, log: ProblemLog) -> tuple[list[int], bool]:
    """Elements of the ``list_head`` lists at ``heads``, all lists a step at a time; and were all followed?"""
    found: list[int] = []
    ends = set(heads.tolist())
    seen = set(ends)
    here, whole = heads, True
    while len(here) and len(found) < most:
        data, ok = kernel.words(here, 1)
        after = data[:, 0]
        wild = ok & ~kernel_pointer(after)
        new = np.array([one not in seen for one in after.tolist()], np.bool_)
        end = np.array([one in ends for one in after.tolist()], np.bool_)
        cycle = ok & ~wild & ~new & ~end
        if not (ok & ~wild & ~cycle).all():
            log.add(View.HANDLES, Problem.UNREADABLE, 0, here[~ok])
            log.add(View.HANDLES, Problem.NON_CANONICAL, 0, here[wild], after[wild])
            log.add(View.HANDLES, Problem.CYCLE, 0, here[cycle], after[cycle])
        live = ok & ~wild & new
        whole &= bool((live | (ok & end)).all())
        here = np.unique(after[live])
        seen.update(here.tolist())
        found += here.tolist()
    if len(here):
        log.add(View.HANDLES, Problem.CUT_SHORT, 0, here, len(found))
    return found, whole and not len(here)


def _look(kernel: Kernel, rows: NDArray[np.void]) -> None:
    """Fill in ``pa`` and ``content``, the latter for files that neither a path nor an area leads to."""
    try:
        reader = PageReader(kernel)
    except KernelNotFoundError as error:
        kernel.identity.problems.append(f"contents of files in memory were not looked at: {error}")
        return
    pfns, fine = reader.frames_of(rows["page"])
    at = np.flatnonzero(fine & (rows["page"] != 0) & (pfns < np.uint64(1 << 40)))
    rows["pa"][at] = pfns[at] << np.uint64(PAGE_SHIFT)
    lost = rows["internal"] | (rows["nlink"] == 0)
    lost &= ~rows["mapped"]
    rows["content"][rows["page"] != 0] = Content.NOT_IN_DUMP
    rows["content"][at[~lost[at]]] = Content.UNSEEN
    at = at[lost[at]]
    data, ok = kernel.memory.gather(rows["pa"][at], _HEAD)
    rows["content"][at[ok]] = contents(data[ok])


def contents(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The :class:`Content` of pages by their first bytes, shape ``(n, bytes)``."""
    kinds = np.full(len(data), Content.OTHER, np.uint8)
    printable = ((data >= 0x20) & (data < 0x7F)) | ((data >= 9) & (data <= 13)) | (data >= 0x80)
    behind = np.cumsum(data == 0, axis=1) > 0
    text = (printable | (behind & (data == 0))).all(axis=1) & (data[:, 0] != 0)
    kinds[text] = Content.TEXT
    kinds[text & (data[:, 0] == ord("#")) & (data[:, 1] == ord("!"))] = Content.SCRIPT
    kinds[(data[:, :4] == np.frombuffer(b"\x7fELF", np.uint8)).all(axis=1)] = Content.ELF
    kinds[~data.any(axis=1)] = Content.ZERO
    return kinds


def _names(kernel: Kernel, links: NDArray[np.uint64]) -> list[bytes | None]:
    """Name of the dentry whose alias list node each of ``links`` is."""
    alias = kernel.offset("dentry", "d_u.d_alias|d_alias")
    name = "d_name.name|__d_name.name"
    got, ok = kernel.gather("dentry", links - np.uint64(alias), [name])
    with_name = np.flatnonzero(ok & kernel_pointer(links))
    names: list[bytes | None] = [None] * len(links)
    for row, text in zip(with_name.tolist(), kernel.strings(got["d_name.name"][with_name]), strict=True):
        names[row] = text
    return names
