"""Every ``address_space`` that inodes lead to: files known from elsewhere, and all inodes of all superblocks.

A superblock's list of inodes has to be followed, but need not be *read* one element at a time: the inodes that the
dentry hash table leads to are read together, and from there the lists are followed in both directions at once until
nothing new turns up. The hash table is a matter of speed; where it is lost, the caches in which inodes lie lead to the
others of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import difference, distinct, is_in, rows_of
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U64, Bools
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.slab.any_cache import find_objects
from vmaforensics.views.slab.homes import DENTRY, INODE, SUPER_BLOCK, Homes
from vmaforensics.views.slab.slab_pages import SlabLayout, find_slabs
from vmaforensics.views.structures.address_set import AddressSet, object_pointer
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_SUPER_BLOCKS = 1 << 16
_CHAIN = 64  # dentries in one bucket that are followed
_STEPS = 1 << 15  # rounds of following lists of inodes
_MANY = 64  # rounds after which little is known of the lists


@table(struct="dentry")
class _HashedDentries(Table):
    """Dentries of one round through all buckets."""

    inode: U64 = member("d_inode")
    next: U64 = member("d_hash.next")


def inode_mappings(kernel: Kernel, log: ProblemLog) -> U64:
    """``i_mapping`` of every inode, ascending, each once."""
    inodes = _inodes(kernel, log)
    pointers, ok = kernel.gather_member("inode", "i_mapping", inodes)
    mappings = distinct(pointers[ok])
    return mappings[object_pointer(kernel.arch, mappings)]


def _inodes(kernel: Kernel, log: ProblemLog) -> U64:
    """Every inode that a superblock's list leads to, and those that the dentry hash table leads to."""
    link = np.uint64(kernel.offset("inode", "i_sb_list"))
    blocks = _super_blocks(kernel, log)
    heads = blocks + np.uint64(kernel.offset("super_block", "s_inodes"))
    hints = _hashed(kernel)
    known = _Known.of(kernel, blocks, hints)
    nodes, limit = AddressSet(), _most(kernel)
    fresh = nodes.add(np.concatenate([heads, hints + link]))
    listed = np.zeros(0, np.uint64)  # what a list leads to; a hint that cannot be read is no loss
    strange: list[U64] = []
    count = len(fresh)
    steps = 0
    while len(fresh):
        stale = ~is_in(fresh, heads) & known.strangers(fresh - link)
        lost = fresh[stale & is_in(fresh, listed)]
        log.add(View.FILE_RMAP, Problem.STALE, 0, lost, lost)
        strange.append(fresh[stale])
        fresh = fresh[~stale]
        words, ok = kernel.words(fresh, 2)
        lost = fresh[~ok]
        log.add(View.FILE_RMAP, Problem.UNREADABLE, 0, lost[is_in(lost, listed)])
        after = words[ok].reshape(-1)
        listed = after[object_pointer(kernel.arch, after)]
        more = _listed_in_caches(kernel, difference(nodes.all(), heads)) if steps == _MANY else listed[:0]
        fresh = nodes.add(np.concatenate([listed, more]))
        count += len(fresh)
        steps += 1
        if count > limit or steps > _STEPS:
            log.add(View.FILE_RMAP, Problem.CUT_SHORT, 0, fresh[:1])
            break
    inodes: U64 = difference(nodes.all(), np.concatenate([heads, *strange])) - link
    return inodes


def _listed_in_caches(kernel: Kernel, nodes: U64) -> U64:
    """What is on a list in the slab caches in which ``nodes`` are: what comes next on the list leads back there.

    Free inodes are on none.
    """
    unsaid = ProblemLog()  # the view of the slab says what is wrong with it
    known = find_objects(kernel, nodes, unsaid)
    caches = known.caches
    slabs = find_slabs(kernel, caches, unsaid).slabs if len(caches) else known.slabs
    place = np.zeros(len(caches), np.uint64)  # of the link in an object: of all in one cache the same
    inside = known.places.cache >= 0
    place[known.places.cache[inside]] = (nodes - known.places.start)[inside]
    rows = np.arange(len(slabs))
    objects = SlabLayout(caches=caches, slabs=slabs).addresses(rows)
    found = objects + np.repeat(place[slabs.cache], slabs.objects)
    words, ok = kernel.words(found, 2)
    ok &= (words[:, 0] != found) & object_pointer(kernel.arch, words[:, 0])
    found, following = found[ok], words[ok, 0]
    back, ok = kernel.words(following, 2)
    listed: U64 = found[ok & (back[:, 1] == found)]
    return listed


class _Known:
    """What tells an inode from other memory: the allocator, and that it is of a superblock."""

    def __init__(self, kernel: Kernel, blocks: U64) -> None:
        self._kernel = kernel
        self._blocks = blocks  # ascending

    @classmethod
    def of(cls, kernel: Kernel, listed: U64, inodes: U64) -> _Known:
        """With the superblocks ``listed``, and those of ``inodes`` that can be one."""
        named, ok = kernel.gather_member("inode", "i_sb", inodes)
        named = distinct(named[ok])
        named = named[object_pointer(kernel.arch, named)]
        named = named[kernel.shared(Homes).admits(SUPER_BLOCK, named)]
        return cls(kernel, distinct(listed, named))

    def strangers(self, inodes: U64) -> Bools:
        """Which of ``inodes`` are none."""
        named, ok = self._kernel.gather_member("inode", "i_sb", inodes)
        elsewhere = ok & (rows_of(self._blocks, named) < 0)
        return elsewhere | self._kernel.shared(Homes).strangers(INODE, inodes)


def _most(kernel: Kernel) -> int:
    """More inodes than this cannot be in the image's memory."""
    return _ram(kernel) // max(kernel.sizeof("inode"), 1) + (1 << 16)


def _ram(kernel: Kernel) -> int:
    ranges = kernel.memory.ranges
    return int((ranges[:, 1] - ranges[:, 0]).sum())


def _super_blocks(kernel: Kernel, log: ProblemLog) -> U64:
    """The list ``super_blocks`` (fs/super.c), both ways: a break does not cost what lies behind it."""
    head = kernel.symbols.get("super_blocks")
    if head is None:
        text = "the symbol super_blocks is unknown: only files in use lead to i_mmap trees"
        if text not in kernel.identity.problems:
            kernel.identity.problems.append(text)
        return np.zeros(0, np.uint64)
    nodes = AddressSet()
    fresh = nodes.add(np.array([head], np.uint64))
    place = np.uint64(kernel.offset("super_block", "s_list"))
    strange: list[U64] = []
    for _ in range(_SUPER_BLOCKS):
        stale = (fresh != np.uint64(head)) & kernel.shared(Homes).strangers(SUPER_BLOCK, fresh - place)
        log.add(View.FILE_RMAP, Problem.STALE, 0, fresh[stale], fresh[stale])
        strange.append(fresh[stale])
        fresh = fresh[~stale]
        words, ok = kernel.words(fresh, 2)
        log.add(View.FILE_RMAP, Problem.UNREADABLE, 0, fresh[~ok])
        after = words[ok].reshape(-1)
        fresh = nodes.add(after[object_pointer(kernel.arch, after)])
        if not len(fresh):
            break
    found = difference(nodes.all(), np.concatenate(strange)) if strange else nodes.all()
    blocks: U64 = found[found != np.uint64(head)] - place
    return blocks


def _hashed(kernel: Kernel) -> U64:
    """Inodes of the dentries in ``dentry_hashtable`` (fs/dcache.c): hints, so nothing is said of what is not there.

    A bucket is a pointer whose bit 0 is its lock (include/linux/list_bl.h).
    """
    where = [kernel.symbols.get(name) for name in ("dentry_hashtable", "d_hash_shift")]
    none = np.zeros(0, np.uint64)
    if where[0] is None or where[1] is None:
        return none
    words, ok = kernel.words(np.array(where, np.uint64), 1)
    shift = int(words[1, 0]) & 0xFFFFFFFF
    # The kernel makes a bucket for every 8 KiB (alloc_large_system_hash): a table much larger is none.
    ram = _ram(kernel)
    if (
        not ok.all()
        or not object_pointer(kernel.arch, words[:1, 0])[0]
        or not 0 < shift < 32
        or 8 << 32 - shift > ram // 128
    ):
        return none
    page = kernel.arch.page_size
    pages = np.arange(max((1 << 32 - shift) * 8 // page, 1), dtype=np.uint64) * np.uint64(page)
    buckets, ok = kernel.words(words[0, 0] + pages, page // 8)
    node = np.uint64(kernel.offset("dentry", "d_hash"))
    heads = buckets[ok].reshape(-1)
    fresh = heads[heads != 0] & ~np.uint64(1)
    fresh = fresh[object_pointer(kernel.arch, fresh)]
    inodes = []
    for _ in range(_CHAIN):
        if not len(fresh):
            break
        fresh = fresh[kernel.shared(Homes).admits(DENTRY, fresh - node)]
        rows, ok = kernel.gather(_HashedDentries, fresh - node)
        inodes.append(rows.inode[ok])
        fresh = distinct(rows.next[ok])
        fresh = fresh[object_pointer(kernel.arch, fresh)]
    found = distinct(*inodes) if inodes else none
    return found[object_pointer(kernel.arch, found)]
