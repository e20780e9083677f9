"""The operations that leave records of a memory map apart, and the functions of the kernel they are known by.

Apart from who finds them, since rules and their explanations need no NumPy. Functions are those of 5.10 to 7.3, also
under the names of those they are inlined into. That a task is in a system call says nothing, nor that it waits for
the mmap lock: a function is listed only if it runs with what it needs in its hands.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Operation(IntEnum):
    """What a task was in the middle of."""

    FAULT = 0
    COPY_ON_WRITE = 1
    SWAP_IN = 2
    ZAP = 3
    TABLE = 4
    UNMAP = 5
    MAP = 6
    PROTECT = 7
    MOVE = 8
    GROW = 9
    FORK = 10
    EXEC = 11
    EXIT = 12
    NEW_TASK = 13
    RELEASE = 14
    DE_THREAD = 15
    RECLAIM = 16
    MIGRATE = 17
    COLLAPSE = 18
    SPLIT = 19
    SAME_PAGE = 20
    SWITCH = 21
    PATCH = 22
    ADJUST = 23
    LET_GO = 24
    COPY_ENTRIES = 25
    MOVE_ENTRIES = 26
    ALLOCATE = 27
    CLOSE = 28
    DUMP = 29
    CHANGE_ENTRIES = 30
    CLEAN = 31
    ZAP_OTHERS = 32
    REDIRECT = 33
    COMPACT = 34
    UNSHARE = 35
    SIGNAL = 36

    @property
    def text(self) -> str:
        """The operation in words."""
        return KNOWN[self].text


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of an operation."""

    text: str
    functions: str  # names, separated by blanks
    atomic: bool = False  # records are apart only under a spin lock: the task is on a CPU, but for PREEMPT_RT
    anywhere: bool = False  # works on address spaces that are not the task's
    interrupted: str = ""  # functions that are the operation in part: only if the task was interrupted right in them
    unless: str = ""  # functions further down the same stack that show it to be past that, or not there yet


KNOWN = {
    Operation.FAULT: Known(
        text="a page fault between the count of a page and its entry",
        functions="__handle_mm_fault page_add_new_anon_rmap folio_add_new_anon_rmap page_add_file_rmap "
        "folio_add_file_rmap_ptes folio_add_file_rmap_pte folio_add_lru_vma do_anonymous_page do_set_pte "
        "set_pte_range do_set_pmd finish_fault filemap_map_pages filemap_map_folio_range "
        "filemap_map_order0_folio next_uptodate_page next_uptodate_folio filemap_map_pmd do_fault_around "
        "map_anon_folio_pte_nopf map_anon_folio_pte_pf map_anon_folio_pmd_nopf map_anon_folio_pmd_pf "
        "__do_huge_pmd_anonymous_page do_huge_pmd_anonymous_page insert_page insert_page_into_pte_locked "
        "insert_pfn alloc_set_pte do_read_fault do_cow_fault do_shared_fault do_pte_missing "
        "mfill_atomic_install_pte "
        # a new page is put on a list between the two; do_anonymous_page itself may be inlined
        "lru_cache_add lru_cache_add_inactive_or_unevictable folio_add_lru",
        atomic=True,
        unless="add_to_page_cache_lru filemap_add_folio shmem_getpage_gfp shmem_get_folio_gfp __read_swap_cache_async",
    ),
    Operation.COPY_ON_WRITE: Known(
        text="a write to a shared page, which is being copied",
        functions="wp_page_copy do_wp_page do_huge_pmd_wp_page __replace_page uprobe_write_opcode "
        "__uprobe_write_opcode __uprobe_write",
        atomic=True,
    ),
    Operation.SWAP_IN: Known(
        text="a page that is being brought back from swap",
        functions="do_swap_page unuse_pte unuse_pte_range",
        atomic=True,
        anywhere=True,  # swapoff
    ),
    Operation.ZAP: Known(
        text="clearing of page-table entries",
        functions="zap_pte_range zap_pmd_range zap_p4d_range unmap_page_range __zap_vma_range zap_present_ptes "
        "zap_present_folio_ptes do_zap_pte_range tlb_flush_rmaps tlb_flush_rmap_batch zap_huge_pmd",
        atomic=True,
    ),
    Operation.TABLE: Known(
        text="a page table that is being linked in or freed",
        functions="__pte_alloc __pmd_alloc __pud_alloc __p4d_alloc pmd_install free_pgd_range free_pgtables "
        "free_pte_range free_pmd_range free_pud_range free_p4d_range",
    ),
    Operation.UNMAP: Known(
        text="munmap",
        functions="__do_munmap do_munmap do_vmi_munmap do_vmi_align_munmap do_mas_munmap do_mas_align_munmap "
        "unmap_region unmap_vmas vms_complete_munmap_vmas vms_gather_munmap_vmas vms_clear_ptes vms_clean_up_area "
        "remove_vma_list remove_mt remove_vma detach_vmas_to_be_unmapped",
    ),
    Operation.MAP: Known(
        text="mmap or brk",
        functions="mmap_region __mmap_region do_mmap do_brk_flags insert_vm_struct __install_special_mapping "
        "_install_special_mapping vma_link copy_vma",
        # Those have their operations; the new VMA is not there before them, and whole after.
        unless="vma_merge vma_merge_new_range vma_expand __do_munmap do_mas_munmap do_mas_align_munmap "
        "vms_gather_munmap_vmas vms_complete_munmap_vmas",
    ),
    Operation.ADJUST: Known(
        text="a change of the bounds of a VMA (split, merge, growth)",
        functions="__vma_adjust vma_adjust vma_merge vma_expand vma_shrink __split_vma split_vma vma_merge_new_range "
        "vma_merge_existing_range commit_merge vma_complete vma_prepare vma_modify vma_modify_flags vma_modify_name "
        "vma_modify_policy mmap_region do_brk_flags do_brk_munmap",  # mmap_region expands VMAs itself in 6.1
    ),
    Operation.PROTECT: Known(
        text="a change of what VMAs allow (mprotect, mlock, madvise and the like)",
        functions="mprotect_fixup change_protection change_protection_range change_pte_range mlock_fixup "
        "apply_vma_lock_flags apply_mlockall_flags madvise_update_vma madvise_vma_behavior mbind_range vma_modify "
        "vma_modify_flags vma_modify_name vma_modify_policy "
        "prctl_set_vma",
    ),
    Operation.MOVE: Known(
        text="mremap, or exec's move of the new stack",
        functions="move_vma move_page_tables move_ptes move_huge_pmd move_normal_pmd move_normal_pud move_pgt_entry "
        "mremap_to shift_arg_pages setup_arg_pages "
        "relocate_vma_down",
    ),
    Operation.GROW: Known(
        text="a stack that grows",
        functions="expand_downwards expand_upwards expand_stack expand_stack_locked acct_stack_growth",
    ),
    Operation.FORK: Known(
        text="fork, which copies the memory map",
        functions="dup_mmap dup_mm copy_page_range copy_p4d_range copy_pmd_range copy_pte_range copy_present_pte "
        "copy_present_ptes copy_mm",
    ),
    Operation.EXEC: Known(
        text="execve",
        functions="begin_new_exec flush_old_exec exec_mmap bprm_execve do_execveat_common do_execveat "
        "__do_execve_file setup_new_exec load_elf_binary",
    ),
    Operation.EXIT: Known(
        text="exit, which takes the memory map down",
        functions="exit_mmap exit_mm __mmput mmput mmput_async_fn do_exit __mmdrop",
    ),
    Operation.NEW_TASK: Known(
        text="fork, which makes the new task",
        functions="copy_process dup_task_struct",
    ),
    Operation.RELEASE: Known(
        text="the end of a task that has exited",
        functions="release_task __unhash_process __exit_signal exit_notify",
        atomic=True,
        anywhere=True,
    ),
    Operation.DE_THREAD: Known(
        text="execve of a thread, which takes the place of its leader",
        functions="de_thread",
    ),
    Operation.RECLAIM: Known(
        text="reclaim, which unmaps a page",
        functions="try_to_unmap_one try_to_unmap shrink_page_list shrink_folio_list folio_unmap_invalidate",
        atomic=True,
        anywhere=True,
    ),
    Operation.MIGRATE: Known(
        text="migration of a page",
        functions="try_to_migrate_one try_to_migrate remove_migration_pte remove_migration_ptes migrate_pages_batch "
        "unmap_and_move migrate_folio_unmap migrate_folio_move",
        atomic=True,
        anywhere=True,
    ),
    Operation.COLLAPSE: Known(
        text="collapse of small pages into a huge one",
        functions="collapse_huge_page collapse_pte_mapped_thp collapse_file retract_page_tables "
        "try_collapse_pte_mapped_thp",
    ),
    Operation.SPLIT: Known(
        text="the split of a huge page",
        functions="__split_huge_pmd __split_huge_pmd_locked split_huge_pmd_locked split_huge_pmd_address "
        "split_huge_page_to_list split_huge_page_to_list_to_order __folio_split __split_huge_page unmap_folio "
        "remap_page",
        atomic=True,
    ),
    Operation.SAME_PAGE: Known(
        text="the merge of equal pages (KSM)",
        functions="replace_page write_protect_page try_to_merge_one_page break_ksm unmerge_ksm_pages",
        atomic=True,
        anywhere=True,
    ),
    Operation.SWITCH: Known(
        text="a switch to another address space",
        functions="switch_mm_irqs_off switch_mm context_switch leave_mm load_new_mm_cr3 __schedule schedule_idle "
        "enter_lazy_tlb nmi_uaccess_okay",
        atomic=True,
        anywhere=True,
    ),
    Operation.PATCH: Known(
        text="a change of the kernel's own code",
        functions="__text_poke use_temporary_mm unuse_temporary_mm",
        atomic=True,
        anywhere=True,
    ),
    Operation.LET_GO: Known(
        text="the end of its use of a memory map",
        functions="mmput mmput_async exit_mm exec_mmap begin_new_exec setup_new_exec flush_old_exec",
        interrupted="do_exit",  # exit_mm is part of it
        anywhere=True,
        unless="de_thread __mmput exit_mmap exit_aio ksm_exit __ksm_exit khugepaged_exit __khugepaged_exit fput",
    ),
    Operation.COPY_ENTRIES: Known(
        text="fork, which copies page-table entries",
        functions="copy_page_range copy_p4d_range copy_pmd_range copy_pte_range copy_present_pte copy_present_ptes",
        atomic=True,
    ),
    Operation.MOVE_ENTRIES: Known(
        text="mremap, which moves page-table entries",
        functions="move_page_tables move_ptes move_huge_pmd move_normal_pmd move_normal_pud move_pgt_entry",
        atomic=True,
    ),
    Operation.ALLOCATE: Known(
        text="an allocation of pages, which are not cleared yet",
        functions="get_page_from_freelist prep_new_page post_alloc_hook kernel_init_free_pages kernel_init_pages "
        "clear_huge_page clear_subpage folio_zero_user clear_gigantic_page",
        atomic=True,
        anywhere=True,
    ),
    Operation.CLOSE: Known(
        text="the last close of a file",
        functions="filp_close filp_flush close_files put_files_struct do_close_on_exec task_work_run delayed_fput "
        "__fput ____fput evict shmem_evict_inode",
    ),
    Operation.DUMP: Known(
        text="a core dump, which is written to a file without a descriptor",
        functions="do_coredump vfs_coredump elf_core_dump",
    ),
    Operation.CHANGE_ENTRIES: Known(
        text="a change of page-table entries, which are cleared for it",
        # ptep_modify_prot_start, ptep_get_and_clear; then the new entry
        functions="change_pte_range change_protection change_protection_range madvise_free_pte_range "
        "madvise_cold_or_pageout_pte_range clear_refs_pte_range",
        atomic=True,
    ),
    Operation.CLEAN: Known(
        text="writeback, which clears entries that can be written through and makes others",
        functions="page_mkclean_one page_vma_mkclean_one page_mkclean folio_mkclean",
        atomic=True,
        anywhere=True,
    ),
    Operation.ZAP_OTHERS: Known(
        text="clearing of page-table entries of others: of who maps a file that is cut short, or is killed for want of "
        "memory",
        # mm/memory.c and mm/oom_kill.c; process_mrelease does what the OOM reaper does
        functions="unmap_mapping_range unmap_mapping_range_tree unmap_mapping_range_vma unmap_mapping_pages "
        "unmap_mapping_page unmap_mapping_folio __oom_reap_task_mm oom_reap_task_mm oom_reap_task",
        atomic=True,
        anywhere=True,
    ),
    Operation.REDIRECT: Known(
        text="a change of where static calls lead, one place after the other",
        functions="__static_call_update",  # kernel/static_call_inline.c: the key first, then each place
        anywhere=True,
    ),
    Operation.COMPACT: Known(
        text="compaction, which holds free page frames that pages are to be moved to",
        # mm/compaction.c: they are taken from the buddy system, in 5.10 as if allocated, and kept on a list of its own
        functions="compact_zone isolate_freepages_range",
        anywhere=True,
    ),
    Operation.UNSHARE: Known(
        text="unshare or setns, which give a task what it shared anew",
        # kernel/fork.c, kernel/nsproxy.c, fs/file.c: the task's word first, then the count of what it led to; setns
        # counts the namespaces of another while it looks at them (validate_nsset)
        functions="ksys_unshare unshare_files switch_task_namespaces validate_nsset commit_nsset __do_sys_setns "
        "__se_sys_setns __x64_sys_setns __do_sys_close_range __x64_sys_close_range __close_range",
        unless="create_new_namespaces unshare_nsproxy_namespaces unshare_userns unshare_fd dup_fd free_nsproxy "
        "close_files",
    ),
    Operation.SIGNAL: Known(
        text="a signal on its way to user mode, which it may not reach again",
        functions="get_signal",
        # it stops, and may go on after
        unless="do_signal_stop ptrace_stop ptrace_notify do_jobctl_trap do_freezer_trap __refrigerator",
    ),
}


def operations_by_function() -> dict[str, tuple[Operation, ...]]:
    """The operations that each function is known for."""
    found: dict[str, tuple[Operation, ...]] = {}
    for operation, known in KNOWN.items():
        for name in (known.functions + " " + known.interrupted).split():
            found[name] = (*found.get(name, ()), operation)
    return found
