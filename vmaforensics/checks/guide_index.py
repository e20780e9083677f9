"""Guides to the rules on the indices of the memory map, the areas and their counters."""

from __future__ import annotations

from vmaforensics.checks.guide import Guide
from vmaforensics.views.view import View

_WRITE = "any change of the map, under the mmap write lock"
_LIST = "crash: list vm_area_struct.vm_next -s vm_area_struct.vm_start,vm_end,vm_prev -h <mm->mmap>"
_RB = "crash: tree -t rbtree -r mm_struct.mm_rb -o vm_area_struct.vm_rb MM"
_MAPLE = "crash: tree -t maple -r mm_struct.mm_mt -v MM"
_NODE = "crash: struct maple_arange_64 NODE, or struct maple_range_64 NODE for a leaf"
_COUNTERS = "crash: struct mm_struct.map_count,total_vm,data_vm,exec_vm,stack_vm,locked_vm MM"
_AREAS = "drgn: [(hex(v.vm_start), hex(v.vm_end)) for v in for_each_vma(mm)]"
_INDICES = (View.LIST, View.RBTREE, View.MAPLE)

INDEX: dict[str, Guide] = {
    "VMA-UNLINKED": Guide(
        compares="every area of the vm_next list with those of the red-black tree, both ways (kernels up to 6.0)",
        views=(View.LIST, View.RBTREE),
        transient="fork has an area in the list before it is in the tree, under the write lock",
        by_hand=(_LIST, _RB),
    ),
    "VMA-MISSING": Guide(
        compares="map_count, total_vm, exec_vm, stack_vm and data_vm with the areas of all indices together: fewer "
        "areas or pages than counted. The place is looked for among the empty ranges of just that size",
        views=(View.COUNTERS, *_INDICES, View.VMA),
        transient="munmap has emptied the index before total_vm follows: under the write lock, then the read lock. "
        "expand_downwards raises total_vm first, in 5.10 under the read lock",
        by_hand=(_COUNTERS, "crash: vm PID", _AREAS),
    ),
    "VMA-SURPLUS": Guide(
        compares="as VMA-MISSING, the other way: more areas or pages than the counters say",
        views=(View.COUNTERS, *_INDICES, View.VMA),
        transient="an insertion, before map_count or total_vm follows, under the write lock",
        by_hand=(_COUNTERS, "crash: vm PID", _AREAS),
    ),
    "VMA-RANGE": Guide(
        compares="the index range of each leaf slot with vm_start and vm_end of the area in it",
        views=(View.MAPLE, View.VMA),
        transient="split, merge, expand_downwards and the moving of the stack by exec change one before the other, "
        "under the write lock",
        by_hand=(
            _MAPLE,
            "drgn: for first, last, entry in mt_for_each(mm.mm_mt.address_of_()): print(hex(first), hex(last), entry)",
        ),
    ),
    "VMA-OWNER": Guide(
        compares="vm_mm of every area with the mm_struct whose index led to it",
        views=(*_INDICES, View.VMA),
        transient="dup_mmap of 6.8 and later fills the child's tree with the parent's areas first, under the write "
        "lock",
        by_hand=("crash: struct vm_area_struct.vm_mm VMA", 'drgn: Object(prog, "struct vm_area_struct *", VMA).vm_mm'),
    ),
    "VMA-BOUNDS": Guide(
        compares="vm_start and vm_end of every area of the index: not empty, aligned to pages, below mm->task_size",
        views=(View.VMA,),
        transient="none at rest: an area that waits to be freed has other data over its bounds, and is in no index",
        by_hand=("crash: struct vm_area_struct.vm_start,vm_end VMA",),
    ),
    "VMA-ORDER": Guide(
        compares="vm_start of each area with vm_end of the one before it, in each view's own order",
        views=(*_INDICES, View.VMA),
        transient=_WRITE,
        by_hand=("crash: vm PID", _AREAS),
    ),
    "VMA-BACKLINK": Guide(
        compares="vm_prev of each area with the element before it in the list; mm->highest_vm_end with the end of "
        "the last area (kernels up to 6.0)",
        views=(View.LIST, View.VMA),
        transient=_WRITE,
        by_hand=(_LIST,),
    ),
    "VMA-LINK": Guide(
        compares="nothing: the word at the address could be read and not followed. It is no kernel address, "
        "misaligned, has impossible tag bits, or leads back into the walk or into another address space",
        views=(View.TASKS, *_INDICES, View.FILE_RMAP, View.ANON_RMAP),
        transient=_WRITE + "; task lists change under tasklist_lock, which is not looked at",
        by_hand=("crash: rd -64 ADDRESS", "drgn: hex(prog.read_u64(ADDRESS))"),
    ),
    "RB-SHAPE": Guide(
        compares="__rb_parent_color of each node with the node that led to it, and the colours with each other: no "
        "red child of a red node, a black root, as many black nodes on every way down",
        views=(View.RBTREE,),
        transient="rebalancing, under the mmap write lock",
        by_hand=(
            _RB,
            'drgn: validate_rbtree("struct vm_area_struct", mm.mm_rb.address_of_(), "vm_rb", cmp, allow_equal=False)',
        ),
    ),
    "RB-GAP": Guide(
        compares="rb_subtree_gap of each area with the largest gap before an area of its subtree, recomputed",
        views=(View.RBTREE, View.VMA),
        transient="expand_downwards of 5.10, under the read lock and page_table_lock",
        by_hand=("crash: struct vm_area_struct.rb_subtree_gap,vm_start,vm_prev VMA",),
    ),
    "MT-NODE": Guide(
        compares="the parent word of each node with the place it hangs in, nodes marked dead, the depth of each leaf "
        "with the height in ma_flags, the type of inner nodes",
        views=(View.MAPLE,),
        transient="nodes are published, then their children's parent words are rewritten, then old nodes are marked "
        "dead (6.1 marks them first), under the write lock",
        by_hand=(_MAPLE, "drgn: hex(prog.read_u64(NODE))  # the parent word"),
    ),
    "MT-PIVOT": Guide(
        compares="the pivots of each node up to its end: rising, inside the node's range, ending with it and not "
        "before",
        views=(View.MAPLE,),
        transient="a slot store writes a slot and then its pivot, under the write lock",
        by_hand=(_NODE,),
    ),
    "MT-NULL": Guide(
        compares="neighbouring slots of the leaves: no two empty ranges side by side, nothing behind a node's end",
        views=(View.MAPLE,),
        transient=_WRITE,
        by_hand=(_NODE,),
    ),
    "MT-GAP": Guide(
        compares="gap[i] of each inner node with the largest empty range below slot i, and meta.gap with the slot of "
        "the largest",
        views=(View.MAPLE,),
        transient="gaps are written last, under the write lock",
        by_hand=(_NODE,),
    ),
    "MT-ROOT": Guide(
        compares="the parent word of live root nodes in the slab cache, which names their tree, with ma_root of that "
        "tree",
        views=(View.MAPLE, View.SLAB),
        transient="a new root is published before the old one is marked dead, under the write lock",
        by_hand=("crash: struct mm_struct.mm_mt MM", "drgn: hex(prog.read_u64(NODE))  # the tree, with bit 0 set"),
    ),
    "MT-RESERVED": Guide(
        compares="nothing: an entry of a leaf is no pointer but XA_ZERO_ENTRY, 0x406",
        views=(View.MAPLE,),
        transient="it stays, with the lock free, until the last reference to the child's mm_struct goes",
        by_hand=("crash: rd -64 ADDRESS",),
    ),
    "MM-COUNTER": Guide(
        compares="as VMA-MISSING, for differences that are neither plainly too few nor too many; and locked_vm with "
        "the areas that have VM_LOCKED, which may be fewer and not more",
        views=(View.COUNTERS, *_INDICES, View.VMA),
        transient="as VMA-MISSING",
        by_hand=(_COUNTERS, _AREAS),
    ),
}
