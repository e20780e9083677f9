"""The functions that stand between a reader and the areas of a process, by name.

Of fs/proc, fs/seq_file.c, mm and kernel/ptrace.c.

A name may be of several functions (``m_start`` of /proc/modules too); each counts. Names that a kernel does not have,
for it has been built into its callers or is of another release, are passed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import covering_rows, values_at
from vmaforensics.columns.types import U64, Bools

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

# Those that put areas into words, or find the next one to be shown: who changes these changes what is shown.
SHOWING: Final = (
    "show_map",
    "show_map_vma",
    "show_vma_header_prefix",
    "show_smap",
    "show_smaps_rollup",
    "show_numa_map",
    "smap_gather_stats",
    "m_start",
    "m_next",
    "m_stop",
    "get_next_vma",
    "proc_get_vma",
    "pid_maps_open",
    "pid_smaps_open",
    "smaps_rollup_open",
    "do_maps_open",
    "procfs_procmap_ioctl",
    "do_procmap_query",
    "pagemap_read",
    "pagemap_open",
    "pagemap_pmd_range",
    "pagemap_pte_hole",
    "smaps_pte_range",
    "gather_pte_stats",
    "do_pagemap_cmd",
    "proc_map_files_readdir",
    "proc_map_files_lookup",
    "proc_map_files_get_link",
    "map_files_get_link",
    "map_files_d_revalidate",
)
NAMES: Final = (
    *SHOWING,
    *[
        "lock_vma_under_rcu",
        "lock_next_vma",
        "mem_rw",
        "mem_read",
        "mem_open",
        "auxv_read",
        "environ_read",
        "proc_pid_cmdline_read",
        "get_task_mm",
        "mm_access",
        "proc_mem_open",
        "access_remote_vm",
        "__access_remote_vm",
        "access_process_vm",
        "ptrace_access_vm",
        "ptrace_request",
        "generic_ptrace_peekdata",
        "get_user_pages_remote",
        "__get_user_pages",
        "pin_user_pages_remote",
        "process_vm_rw",
        "find_vma",
        "find_vma_prev",
        "find_vma_intersection",
        "walk_page_range",
        "walk_page_vma",
        "walk_pgd_range",
        "__walk_page_range",
        "seq_read",
        "seq_read_iter",
        "seq_file_path",
        "arch_vma_name",
        "proc_pid_readdir",
        "proc_root_readdir",
        "proc_pid_lookup",
        "proc_root_lookup",
        "next_tgid",
        "filldir64",
        "iterate_dir",
        "vfs_read",
        "elf_core_dump",
        "follow_page_pte",
        "follow_page_mask",
        "mas_find",
        "mas_walk",
        "mas_next",
        "mas_prev",
        "mt_find",
        "rb_next",
        "rb_first",
    ],
)

# What system calls pass through before they come to one of these. Who changes these changes far more than what is
# shown of areas, so tracing them is nobody's business here.
REACHING: Final = (
    *("ksys_read", "ksys_pread64", "vfs_read", "vfs_readv", "do_readv", "do_preadv", "new_sync_read"),
    *("rw_verify_area", "vfs_ioctl", "do_sys_open", "do_sys_openat2", "do_filp_open", "path_openat", "do_dentry_open"),
    *("ptrace_attach", "ptrace_check_attach", "__ptrace_may_access", "ptrace_may_access", "process_vm_rw_core"),
    *("handle_mm_fault", "do_syslog", "security_file_permission", "security_ptrace_access_check"),
)


class Functions(NamedTuple):
    """Functions of the road that this kernel has; by address."""

    start: U64
    end: U64  # next symbol
    shows: Bools  # it puts areas into words

    def have(self, addresses: U64) -> Bools:
        """Which addresses lie in one of them."""
        inside: Bools = covering_rows(self.start, self.end, addresses) >= 0
        return inside

    def show(self, addresses: U64) -> Bools:
        """Which addresses lie in one that puts areas into words."""
        rows = covering_rows(self.start, self.end, addresses)
        return values_at(self.shows, rows, fill=False)


def road_functions(kernel: Kernel) -> Functions:
    """Where the functions of the road lie."""
    found = {at: name for name in NAMES for at in kernel.symbols.find(name)}
    start = np.array(sorted(found), np.uint64)
    nearest = kernel.symbols.by_address().nearest(start)
    return Functions(start, nearest.end, np.array([found[at] in SHOWING for at in start.tolist()], np.bool_))
