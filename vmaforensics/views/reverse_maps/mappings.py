"""Every ``address_space`` that inodes lead to: files known from elsewhere, and all inodes of all superblocks.

A superblock's list of inodes has to be followed, but need not be *read* one element at a time: the inodes that the
dentry hash table leads to are read together, and from there the lists are followed in both directions at once until
nothing new turns up. The hash table is a matter of speed; what the lists lead to is found without it too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel

MAPPINGS = np.dtype(
    [
        ("mapping", np.uint64),  # struct address_space
        ("ok", np.bool_),
        ("host", np.uint64),  # inode
        ("root", np.uint64),  # i_mmap's rb_node
        ("leftmost", np.uint64),
        ("whole", np.bool_),  # every node of i_mmap was read
        ("held", np.bool_),  # somebody held i_mmap_rwsem for writing
    ]
)

_WRITER_BIAS = 1 << 30
_SUPER_BLOCKS = 1 << 16
_CHAIN = 64  # dentries in one bucket that are followed
_STEPS = 1 << 15  # rounds of following lists of inodes


class Seen:
    """A set of addresses that grows in small steps: two sorted arrays, the smaller merged now and then."""

    def __init__(self) -> None:
        self._large = np.zeros(0, np.uint64)
        self._small = np.zeros(0, np.uint64)

    def new(self, addresses: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Those of ``addresses`` not seen before, each once and ascending; from now on they are."""
        fresh = np.unique(addresses)
        for known in (self._large, self._small):
            if len(known) and len(fresh):
                at = np.minimum(np.searchsorted(known, fresh), len(known) - 1)
                fresh = fresh[known[at] != fresh]
        self._small = np.sort(np.concatenate([self._small, fresh]))
        if len(self._small) > 1024 + len(self._large) // 8:
            self._large = np.sort(np.concatenate([self._large, self._small]))
            self._small = np.zeros(0, np.uint64)
        return fresh

    def all(self) -> NDArray[np.uint64]:
        """Everything seen, ascending."""
        return np.sort(np.concatenate([self._large, self._small]))


def plausible(pointers: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Can each be the address of a kernel structure?"""
    answer: NDArray[np.bool_] = kernel_pointer(pointers) & ((pointers & np.uint64(7)) == 0)
    return answer


def inode_mappings(kernel: Kernel, log: ProblemLog) -> NDArray[np.uint64]:
    """``i_mapping`` of every inode, ascending, each once."""
    inodes = _inodes(kernel, log)
    got, ok = kernel.gather("inode", inodes, ["i_mapping"])
    mappings = np.unique(got["i_mapping"][ok])
    return mappings[plausible(mappings)]


def read_mappings(kernel: Kernel, addresses: NDArray[np.uint64], log: ProblemLog, *, mapped: bool) -> NDArray[np.void]:
    """Decode the address spaces at ``addresses``; dtype ``MAPPINGS``, ``whole`` where readable.

    With ``mapped``, only those that some area maps; unreadable ones are left out then.
    """
    root, leftmost = (f"i_mmap.{one}" for one in ("rb_root.rb_node", "rb_leftmost"))
    fields = ["host", root, leftmost] if not mapped else [root]
    got, ok = kernel.gather("address_space", addresses, fields)
    if mapped:
        return read_mappings(kernel, addresses[ok & (got[root] != 0)], log, mapped=False)
    rows = np.zeros(len(addresses), MAPPINGS)
    rows["mapping"], rows["ok"], rows["whole"] = addresses, ok, ok
    rows["host"], rows["root"], rows["leftmost"] = got["host"], got[root], got[leftmost]
    rows["held"] = write_held(kernel, "address_space", addresses, "i_mmap_rwsem")
    log.add(View.FILE_RMAP, Problem.UNREADABLE, 0, addresses[~ok])
    return rows


def write_held(kernel: Kernel, struct: str, addresses: NDArray[np.uint64], member: str) -> NDArray[np.bool_]:
    """Is the rw_semaphore ``member`` of each structure held by a writer? False where it cannot be told.

    Bit 0 of the count (kernel/locking/rwsem.c); on PREEMPT_RT, WRITER_BIAS (kernel/locking/rwbase_rt.c).
    """
    for word, mask in ((f"{member}.count.counter", 1), (f"{member}.rwbase.readers.counter", _WRITER_BIAS)):
        if kernel.has(struct, word):
            got, ok = kernel.gather(struct, addresses, [word])
            values = got[word].astype(np.int64) & 0xFFFFFFFF
            held: NDArray[np.bool_] = ok & ((values & 1) != 0 if mask == 1 else values == mask)
            return held
    return np.zeros(len(addresses), np.bool_)


def _inodes(kernel: Kernel, log: ProblemLog) -> NDArray[np.uint64]:
    """Every inode that a superblock's list leads to, and those that the dentry hash table leads to."""
    link = np.uint64(kernel.offset("inode", "i_sb_list"))
    heads = _super_blocks(kernel, log) + np.uint64(kernel.offset("super_block", "s_inodes"))
    hints = _hashed(kernel)
    nodes, limit = Seen(), _most(kernel)
    fresh = nodes.new(np.concatenate([heads, hints + link]))
    told = np.zeros(0, np.uint64)  # what a list led to; a hint that cannot be read is no loss
    count = len(fresh)
    steps = 0
    while len(fresh):
        words, ok = kernel.words(fresh, 2)
        lost = fresh[~ok]
        log.add(View.FILE_RMAP, Problem.UNREADABLE, 0, lost[np.isin(lost, told)])
        after = words[ok].reshape(-1)
        told = after[plausible(after)]
        fresh = nodes.new(told)
        count += len(fresh)
        steps += 1
        if count > limit or steps > _STEPS:
            log.add(View.FILE_RMAP, Problem.CUT_SHORT, 0, fresh[:1])
            break
    inodes: NDArray[np.uint64] = np.setdiff1d(nodes.all(), heads) - link
    return inodes


def _most(kernel: Kernel) -> int:
    """More inodes than this cannot be in the image's memory."""
    return _ram(kernel) // max(kernel.sizeof("inode"), 1) + (1 << 16)


def _ram(kernel: Kernel) -> int:
    ranges = kernel.memory.ranges
    return int((ranges[:, 1] - ranges[:, 0]).sum())


def _super_blocks(kernel: Kernel, log: ProblemLog) -> NDArray[np.uint64]:
    """The list ``super_blocks`` (fs/super.c), both ways: a break does not cost what lies behind it."""
    head = kernel.symbols.get("super_blocks")
    if head is None:
        text = "the symbol super_blocks is unknown: only files in use lead to i_mmap trees"
        if text not in kernel.identity.problems:
            kernel.identity.problems.append(text)
        return np.zeros(0, np.uint64)
    nodes = Seen()
    fresh = nodes.new(np.array([head], np.uint64))
    for _ in range(_SUPER_BLOCKS):
        words, ok = kernel.words(fresh, 2)
        log.add(View.FILE_RMAP, Problem.UNREADABLE, 0, fresh[~ok])
        after = words[ok].reshape(-1)
        fresh = nodes.new(after[plausible(after)])
        if not len(fresh):
            break
    found = nodes.all()
    blocks: NDArray[np.uint64] = found[found != np.uint64(head)] - np.uint64(kernel.offset("super_block", "s_list"))
    return blocks


def _hashed(kernel: Kernel) -> NDArray[np.uint64]:
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
    if not ok.all() or not plausible(words[:1, 0])[0] or not 0 < shift < 32 or 8 << 32 - shift > ram // 128:
        return none
    pages = np.arange(max((1 << 32 - shift) // 512, 1), dtype=np.uint64) * np.uint64(4096)
    buckets, ok = kernel.words(words[0, 0] + pages, 512)
    node = np.uint64(kernel.offset("dentry", "d_hash"))
    heads = buckets[ok].reshape(-1)
    fresh = heads[heads != 0] & ~np.uint64(1)
    fresh = fresh[plausible(fresh)]
    inodes = []
    for _ in range(_CHAIN):
        if not len(fresh):
            break
        got, ok = kernel.gather("dentry", fresh - node, ["d_inode", "d_hash.next"])
        inodes.append(got["d_inode"][ok])
        fresh = np.unique(got["d_hash.next"][ok])
        fresh = fresh[plausible(fresh)]
    found = np.unique(np.concatenate(inodes)) if inodes else none
    return found[plausible(found)]
