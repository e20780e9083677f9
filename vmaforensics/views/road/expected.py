"""The tables that lead from /proc to the areas of a process, and the functions that belong there.

fs/proc/base.c, fs/proc/task_mmu.c, fs/proc/root.c. Where a name is known, another function of the same kernel there is
told apart; where this kernel has none of the names, any function of the kernel will do.
"""

from __future__ import annotations

from typing import Final

_SEQ: Final = {"llseek": "seq_lseek", "read": "seq_read", "release": "proc_map_release"}
_MAPS: Final = {"start": "m_start", "stop": "m_stop", "next": "m_next"}

# Symbol of a table, its structure, and which functions its members may hold.
TABLES: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "proc_pid_maps_operations": ("file_operations", {**_SEQ, "open": "pid_maps_open"}),
    "proc_pid_smaps_operations": ("file_operations", {**_SEQ, "open": "pid_smaps_open"}),
    "proc_pid_smaps_rollup_operations": (
        "file_operations",
        {"llseek": "seq_lseek", "read": "seq_read", "open": "smaps_rollup_open", "release": "smaps_rollup_release"},
    ),
    "proc_pid_numa_maps_operations": ("file_operations", {**_SEQ, "open": "pid_numa_maps_open"}),
    "proc_pagemap_operations": (
        "file_operations",
        {"llseek": "mem_lseek", "read": "pagemap_read", "open": "pagemap_open", "release": "pagemap_release"},
    ),
    "proc_map_files_operations": ("file_operations", {"iterate_shared|iterate": "proc_map_files_readdir"}),
    "proc_map_files_inode_operations": ("inode_operations", {"lookup": "proc_map_files_lookup"}),
    "proc_map_files_link_inode_operations": ("inode_operations", {"get_link": "proc_map_files_get_link"}),
    "tid_map_files_dentry_operations": ("dentry_operations", {"d_revalidate": "map_files_d_revalidate"}),
    "proc_mem_operations": (
        "file_operations",
        {"llseek": "mem_lseek", "read": "mem_read", "write": "mem_write", "open": "mem_open", "release": "mem_release"},
    ),
    "proc_auxv_operations": ("file_operations", {"read": "auxv_read"}),
    "proc_environ_operations": ("file_operations", {"read": "environ_read"}),
    "proc_pid_cmdline_ops": ("file_operations", {"read": "proc_pid_cmdline_read"}),
    "proc_single_file_operations": ("file_operations", {"open": "proc_single_open"}),
    "proc_clear_refs_operations": ("file_operations", {"write": "clear_refs_write"}),
    "proc_root_operations": ("file_operations", {"iterate_shared|iterate": "proc_root_readdir"}),
    "proc_root_inode_operations": ("inode_operations", {"lookup": "proc_root_lookup", "getattr": "proc_root_getattr"}),
    "proc_tgid_base_operations": ("file_operations", {"iterate_shared|iterate": "proc_tgid_base_readdir"}),
    "proc_tgid_base_inode_operations": ("inode_operations", {"lookup": "proc_tgid_base_lookup"}),
    "proc_task_operations": ("file_operations", {"iterate_shared|iterate": "proc_task_readdir"}),
    "pid_dentry_operations": ("dentry_operations", {"d_revalidate": "pid_revalidate"}),
    "proc_pid_maps_op": ("seq_operations", {**_MAPS, "show": "show_map"}),
    "proc_pid_smaps_op": ("seq_operations", {**_MAPS, "show": "show_smap"}),
    "proc_pid_numa_maps_op": ("seq_operations", {**_MAPS, "show": "show_numa_map"}),
    "smaps_walk_ops": ("mm_walk_ops", {"pmd_entry": "smaps_pte_range"}),
    "smaps_shmem_walk_ops": ("mm_walk_ops", {"pmd_entry": "smaps_pte_range"}),
    "show_numa_ops": ("mm_walk_ops", {"pmd_entry": "gather_pte_stats"}),
    "pagemap_ops": ("mm_walk_ops", {"pmd_entry": "pagemap_pmd_range", "pte_hole": "pagemap_pte_hole"}),
    "pagemap_scan_ops": ("mm_walk_ops", {"pmd_entry": "pagemap_scan_pmd_entry"}),
}

# Arrays of struct pid_entry, and which table each entry has for its files; the others are held to be the kernel's own.
ENTRIES: Final = ("tgid_base_stuff", "tid_base_stuff")
FILES: Final = {
    "maps": "proc_pid_maps_operations",
    "smaps": "proc_pid_smaps_operations",
    "smaps_rollup": "proc_pid_smaps_rollup_operations",
    "numa_maps": "proc_pid_numa_maps_operations",
    "pagemap": "proc_pagemap_operations",
    "map_files": "proc_map_files_operations",
    "mem": "proc_mem_operations",
    "auxv": "proc_auxv_operations",
    "environ": "proc_environ_operations",
    "cmdline": "proc_pid_cmdline_ops",
    "clear_refs": "proc_clear_refs_operations",
}
