"""Guides to the rules on page tables, pages and reverse maps."""

from __future__ import annotations

from vmaforensics.checks.guide import Guide
from vmaforensics.views.view import View

_VTOP = "crash: vtop -c PID ADDRESS"
_PTL = "between the entry and the count, under the page-table lock, which is not looked at"
_INDICES = (View.LIST, View.RBTREE, View.MAPLE)
_I_MMAP = (
    'drgn: list(rbtree_inorder_for_each_entry("struct vm_area_struct", mapping.i_mmap.rb_root.address_of_(), '
    '"shared.rb"))'
)
_ANON = (
    'drgn: list(rbtree_inorder_for_each_entry("struct anon_vma_chain", anon_vma.rb_root.rb_root.address_of_(), "rb"))'
)
_CHAIN = "crash: list anon_vma_chain.same_vma -H <&vma->anon_vma_chain> -s anon_vma_chain.vma,anon_vma"
_LINKING = (
    "fork, mmap and splits link an area into the reverse map before the index has it, under the write lock; munmap "
    "takes it out of the index first, and may go on under the read lock"
)
_SPLIT = "merges and splits take an area out of the reverse map for a while, under the write lock"

PAGES: dict[str, Guide] = {
    "PTE-ORPHAN": Guide(
        compares="the entries of the user half of every process's page tables with the areas of all indices",
        views=(View.PAGE_TABLES, *_INDICES),
        transient="munmap has emptied the index before the entries are cleared, under the write lock, then the read "
        "lock; a driver's mmap may fill entries before its area is inserted",
        by_hand=(_VTOP, "crash: vm PID"),
    ),
    "PTE-PERM": Guide(
        compares="execute, write and user rights of each present entry, over all levels, with VM_EXEC and VM_WRITE",
        views=(View.PAGE_TABLES, View.VMA),
        transient="mprotect, under the write lock",
        by_hand=(_VTOP, "crash: struct vm_area_struct.vm_flags,vm_page_prot VMA"),
    ),
    "PTE-KERNEL": Guide(
        compares="what struct page says of each frame that a user entry leads to: slab and page-table pages are a "
        "finding",
        views=(View.PAGE_TABLES, View.PAGES),
        transient="none",
        by_hand=(_VTOP, "crash: kmem PHYSICAL"),
    ),
    "PTE-REMAP": Guide(
        compares="mapping and index of each page with the file or anon_vma of its area and its place there",
        views=(View.PAGE_TABLES, View.PAGES, View.VMA),
        transient="mremap moves entries and areas, under the write lock",
        by_hand=(
            _VTOP,
            "crash: struct page.mapping,index PAGE",
            "crash: struct vm_area_struct.vm_file,anon_vma,vm_pgoff VMA",
        ),
    ),
    "PTE-ERASED": Guide(
        compares="the map count of every small page with the number of entries that lead to it, over all processes",
        views=(View.PAGES, View.PAGE_TABLES),
        transient=_PTL,
        by_hand=("crash: struct page._mapcount PAGE  # the count less one",),
    ),
    "VMA-PROT": Guide(
        compares="execute and write bits of vm_page_prot with VM_EXEC, VM_WRITE and VM_SHARED",
        views=(View.VMA,),
        transient="mprotect, under the write lock",
        by_hand=("crash: struct vm_area_struct.vm_page_prot,vm_flags VMA",),
    ),
    "PT-SHARED": Guide(
        compares="the physical addresses of all page-table pages of user halves: none twice, in two processes or in "
        "one, but for hugetlb areas",
        views=(View.PAGE_TABLES,),
        transient="none known",
        by_hand=(_VTOP + "  # of each of the processes",),
    ),
    "PT-ISOLATION": Guide(
        compares="the user halves of the two top-level page tables of a process, NX aside",
        views=(View.PAGE_TABLES,),
        transient="between the two writes",
        by_hand=("crash: rd -64 <mm->pgd> 256", "crash: rd -64 <mm->pgd + 4096> 256"),
    ),
    "TEXT-MODIFIED": Guide(
        compares="the frame behind each page of an executable area of a file with the frame in the file's page cache, "
        "and where they are two, their contents; bytes at a registered uprobe aside",
        views=(View.PAGE_TABLES, View.PAGES, View.FILES),
        transient="none: a uprobe is in its tree before the breakpoint is written, and after it has been taken out",
        by_hand=(
            _VTOP,
            "crash: struct address_space.i_pages MAPPING",
            "crash: rd -p PHYSICAL 512  # of both frames",
        ),
    ),
    "MM-RSS": Guide(
        compares="the counters of file, anonymous, shared-memory and swap pages, with their parts, with the entries",
        views=(View.COUNTERS, View.PAGE_TABLES, View.PAGES),
        transient="clearing of entries is batched (mmu_gather)",
        by_hand=("crash: struct mm_struct.rss_stat MM",),
    ),
    "MM-PGTABLES": Guide(
        compares="pgtables_bytes with 4096 for each PTE, PMD and PUD table, and each kept in store for a huge page",
        views=(View.COUNTERS, View.PAGE_TABLES),
        transient="while tables are allocated or freed",
        by_hand=("crash: struct mm_struct.pgtables_bytes MM",),
    ),
    "RMAP-FILE-HIDDEN": Guide(
        compares="the areas in the i_mmap trees of files, if their vm_mm is that of a process, with those of its "
        "indices",
        views=(View.FILE_RMAP, *_INDICES),
        transient=_LINKING,
        by_hand=(_I_MMAP, "crash: vm PID"),
    ),
    "RMAP-ANON-HIDDEN": Guide(
        compares="the areas that anon_vma trees lead to, and no i_mmap does, with those of their process's indices",
        views=(View.ANON_RMAP, *_INDICES),
        transient=_LINKING,
        by_hand=(_ANON, "crash: vm PID"),
    ),
    "RMAP-FILE-MISSING": Guide(
        compares="every area with a vm_file with the i_mmap tree of that file's address_space",
        views=(View.FILE_RMAP, *_INDICES, View.FILES),
        transient=_SPLIT,
        by_hand=(_I_MMAP,),
    ),
    "RMAP-ANON-MISSING": Guide(
        compares="the anon_vma_chain of each area with its anon_vma, and every link of it with the tree it should be "
        "in",
        views=(View.ANON_RMAP, *_INDICES),
        transient=_SPLIT,
        by_hand=(_CHAIN, _ANON),
    ),
    "RMAP-FILE-MISMATCH": Guide(
        compares="the i_mmap tree an area hangs in with the address_space of its vm_file; its pages, from vm_pgoff "
        "on, with its place in the tree and the last page recorded there",
        views=(View.FILE_RMAP, View.VMA, View.FILES),
        transient="merges and splits change vm_pgoff while the area is out of the tree, under the write lock",
        by_hand=("crash: struct vm_area_struct.vm_file,vm_pgoff,shared VMA", _I_MMAP),
    ),
    "RMAP-TREE": Guide(
        compares="order, rb_subtree_last and parent pointers of the reverse maps; num_active_vmas of each anon_vma "
        "with the areas in its tree that name it",
        views=(View.FILE_RMAP, View.ANON_RMAP),
        transient="under the lock of the address_space or the anon_vma; where it was write-held, findings are lowered",
        by_hand=(_I_MMAP, _ANON),
    ),
}
