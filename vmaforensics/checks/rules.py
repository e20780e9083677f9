"""Every rule by the name it is known by in code that has not moved to the rule's own file yet. TRANSITION."""

from __future__ import annotations

from vmaforensics.checks.anchors.anchor_outside import RULE as ANCHOR_OUTSIDE
from vmaforensics.checks.anchors.cpu_cr3_unknown import RULE as CR3_UNKNOWN
from vmaforensics.checks.anchors.handler_outside import RULE as HANDLER_OUTSIDE
from vmaforensics.checks.anchors.mm_exe_unmapped import RULE as EXE_UNMAPPED
from vmaforensics.checks.anchors.thread_outside import RULE as THREAD_OUTSIDE
from vmaforensics.checks.descriptors.mem_unmapped_code import RULE as UNMAPPED_CODE
from vmaforensics.checks.descriptors.shm_attach_count import RULE as SHM_ATTACH
from vmaforensics.checks.indices.mt_gap import RULE as MT_GAP
from vmaforensics.checks.indices.mt_node import RULE as MT_NODE
from vmaforensics.checks.indices.mt_null import RULE as MT_NULL
from vmaforensics.checks.indices.mt_pivot import RULE as MT_PIVOT
from vmaforensics.checks.indices.mt_reserved import RULE as FAILED_FORK
from vmaforensics.checks.indices.rb_gap import RULE as RB_GAP
from vmaforensics.checks.indices.rb_shape import RULE as RB_SHAPE
from vmaforensics.checks.indices.vma_backlink import RULE as BACKLINK
from vmaforensics.checks.indices.vma_link import RULE as LINK
from vmaforensics.checks.indices.vma_unlinked import RULE as UNLINKED
from vmaforensics.checks.pages.mm_pgtables import RULE as PGTABLES
from vmaforensics.checks.pages.mm_rss import RULE as RSS
from vmaforensics.checks.pages.pt_isolation import RULE as PT_ISOLATION
from vmaforensics.checks.pages.pt_shared import RULE as PT_SHARED
from vmaforensics.checks.pages.pte_erased import RULE as ERASED
from vmaforensics.checks.pages.pte_kernel import RULE as PTE_KERNEL
from vmaforensics.checks.pages.pte_orphan import RULE as PTE_ORPHAN
from vmaforensics.checks.pages.pte_perm import RULE as PTE_PERM
from vmaforensics.checks.pages.pte_remap import RULE as PTE_REMAP
from vmaforensics.checks.pages.text_modified import RULE as TEXT_MODIFIED
from vmaforensics.checks.pages.vma_prot import RULE as PROT
from vmaforensics.checks.processes.mm_decoy import RULE as MM_DECOY
from vmaforensics.checks.processes.mm_hidden import RULE as MM_HIDDEN
from vmaforensics.checks.processes.task_hidden import RULE as TASK_HIDDEN
from vmaforensics.checks.processes.task_kthread_mm import RULE as KTHREAD_MM
from vmaforensics.checks.reverse_maps.rmap_anon_hidden import RULE as RMAP_ANON_HIDDEN
from vmaforensics.checks.reverse_maps.rmap_anon_missing import RULE as RMAP_ANON_MISSING
from vmaforensics.checks.reverse_maps.rmap_file_hidden import RULE as RMAP_FILE_HIDDEN
from vmaforensics.checks.reverse_maps.rmap_file_mismatch import RULE as RMAP_FILE_MISMATCH
from vmaforensics.checks.reverse_maps.rmap_file_missing import RULE as RMAP_FILE_MISSING
from vmaforensics.checks.reverse_maps.rmap_tree import RULE as RMAP_TREE
from vmaforensics.checks.slab.mt_root import RULE as MT_ROOT
from vmaforensics.checks.slab.vma_slab_orphan import RULE as SLAB_ORPHAN
from vmaforensics.checks.slab.vma_slab_state import RULE as SLAB_STATE
from vmaforensics.checks.vmas.mm_counter import RULE as COUNTER
from vmaforensics.checks.vmas.vma_bounds import RULE as BOUNDS
from vmaforensics.checks.vmas.vma_exec_anon import RULE as EXEC_ANON
from vmaforensics.checks.vmas.vma_exec_deleted import RULE as EXEC_DELETED
from vmaforensics.checks.vmas.vma_exec_memfd import RULE as EXEC_MEMFD
from vmaforensics.checks.vmas.vma_missing import RULE as MISSING
from vmaforensics.checks.vmas.vma_order import RULE as ORDER
from vmaforensics.checks.vmas.vma_owner import RULE as OWNER
from vmaforensics.checks.vmas.vma_range import RULE as RANGE
from vmaforensics.checks.vmas.vma_surplus import RULE as SURPLUS

__all__ = [
    "ANCHOR_OUTSIDE",
    "BACKLINK",
    "BOUNDS",
    "COUNTER",
    "CR3_UNKNOWN",
    "ERASED",
    "EXEC_ANON",
    "EXEC_DELETED",
    "EXEC_MEMFD",
    "EXE_UNMAPPED",
    "FAILED_FORK",
    "HANDLER_OUTSIDE",
    "KTHREAD_MM",
    "LINK",
    "MISSING",
    "MM_DECOY",
    "MM_HIDDEN",
    "MT_GAP",
    "MT_NODE",
    "MT_NULL",
    "MT_PIVOT",
    "MT_ROOT",
    "ORDER",
    "OWNER",
    "PGTABLES",
    "PROT",
    "PTE_KERNEL",
    "PTE_ORPHAN",
    "PTE_PERM",
    "PTE_REMAP",
    "PT_ISOLATION",
    "PT_SHARED",
    "RANGE",
    "RB_GAP",
    "RB_SHAPE",
    "RMAP_ANON_HIDDEN",
    "RMAP_ANON_MISSING",
    "RMAP_FILE_HIDDEN",
    "RMAP_FILE_MISMATCH",
    "RMAP_FILE_MISSING",
    "RMAP_TREE",
    "RSS",
    "SHM_ATTACH",
    "SLAB_ORPHAN",
    "SLAB_STATE",
    "SURPLUS",
    "TASK_HIDDEN",
    "TEXT_MODIFIED",
    "THREAD_OUTSIDE",
    "UNLINKED",
    "UNMAPPED_CODE",
]
