"""The types of the kernel variables that programs read through an ISF.

BTF describes types, functions and per-CPU variables; what other variables are stands only in the kernel's
sources. A declaration is written as in C, after its name has been taken away: ``struct fb_info *[]`` is an
array of pointers; ``()`` is a function, ``{seq, timekeeper}`` the structure without a name that begins with
these members, and ``[*]`` as many elements as there are before an element of zeros. Where a type has changed, the
first declaration whose types the kernel has is taken.
"""

from __future__ import annotations

VARIABLES: dict[str, tuple[str, ...]] = {}


def _each(names: str, *declarations: str) -> None:
    VARIABLES.update(dict.fromkeys(names.split(), declarations))


# The image (include/asm-generic/sections.h) and its symbol table (kernel/kallsyms_internal.h).
_each("_text _stext _etext _sinittext _einittext _sdata _edata __bss_start __bss_stop _end", "char[]")
_each("__start_rodata __end_rodata __per_cpu_start __per_cpu_end __start_BTF __stop_BTF", "char[]")
_each("__start___ksymtab __stop___ksymtab __start___ksymtab_gpl __stop___ksymtab_gpl", "struct kernel_symbol[]")
_each("kallsyms_num_syms", "unsigned int")
_each("kallsyms_names kallsyms_seqs_of_names", "unsigned char[]")
_each("kallsyms_token_table", "char[]")
_each("kallsyms_token_index", "short unsigned int[]")
_each("kallsyms_markers", "unsigned int[]")
_each("kallsyms_offsets", "int[]")
_each("kallsyms_relative_base", "long unsigned int")
_each("linux_banner linux_proc_banner", "char[]")
_each("init_uts_ns", "struct uts_namespace")
_each("saved_command_line", "char*")
_each("vmcoreinfo_data", "unsigned char*")
_each("vmcoreinfo_size", "long unsigned int")
_each("tainted_mask", "long unsigned int")
_each("taint_flags", "struct taint_flag[*]")
_each("phys_base page_offset_base vmalloc_base vmemmap_base", "long unsigned int")
_each("init_top_pgt init_level4_pgt", "pgd_t[]")
_each("__pgtable_l5_enabled", "unsigned int")

# Tasks and memory.
_each("init_task", "struct task_struct")
_each("init_mm", "struct mm_struct")
_each("init_files", "struct files_struct")
_each("init_fs", "struct fs_struct")
_each("init_cred", "struct cred")
_each("init_nsproxy", "struct nsproxy")
_each("init_user_ns", "struct user_namespace")
_each("init_pid_ns", "struct pid_namespace")
_each("init_signals", "struct signal_struct")
_each("init_sighand", "struct sighand_struct")
_each("pid_hash", "struct hlist_head*")
_each("pidhash_shift", "unsigned int")
_each("cap_last_cap", "int")
_each("mem_section", "struct mem_section**")
_each("mem_map", "struct page*")
_each("node_data", "struct pglist_data*[]")
_each("max_pfn max_low_pfn min_low_pfn", "long unsigned int")
_each("slab_caches slab_root_caches vmap_area_list pgd_list", "struct list_head")
_each("kmem_cache", "struct kmem_cache*")
_each("swap_info", "struct swap_info_struct*[]")
_each("iomem_resource ioport_resource", "struct resource")
_each("height_to_maxindex height_to_maxnodes", "long unsigned int[]")

# Of each CPU; a BTF made by pahole 1.18 or later describes these.
_each("runqueues", "struct rq")
_each("current_task", "struct task_struct*")
_each("cpu_tlbstate", "struct tlb_state")
_each("cpu_info", "struct cpuinfo_x86")

# Time.
_each("tk_core", "struct tk_data", "{seq, timekeeper}")
_each("timekeeper", "struct timekeeper")
_each("timekeeper_data", "struct tk_data[]")
_each("jiffies", "long unsigned int")
_each("jiffies_64", "long long unsigned int")
_each("wall_to_monotonic total_sleep_time", "struct timespec")

# The log (kernel/printk/printk.c).
_each("prb", "struct printk_ringbuffer*")
_each("printk_rb_static printk_rb_dynamic", "struct printk_ringbuffer")
_each("log_buf", "char*")
_each("__log_buf", "char[]")
_each("log_buf_len log_first_idx log_next_idx log_end", "unsigned int")
_each("log_first_seq log_next_seq", "long long unsigned int")
_each("clear_seq", "struct latched_seq", "long long unsigned int")

# Modules, tracing and BPF.
_each("modules", "struct list_head")
_each("mod_tree", "struct mod_tree_root")
_each("module_addr_min module_addr_max", "long unsigned int")
_each("module_kset", "struct kset*")
_each("ftrace_ops_list", "struct ftrace_ops*")
_each("ftrace_list_end", "struct ftrace_ops")
_each("ftrace_mod_maps ftrace_ops_trampoline_list bpf_kallsyms", "struct list_head")
_each("__start___tracepoints_ptrs __stop___tracepoints_ptrs", "int[]")
_each("bpf_tree", "struct latch_tree_root")
_each("prog_idr map_idr", "struct idr")

# Entry points (arch/x86).
_each("idt_table", "gate_desc[256]", "struct gate_struct[256]")
_each("sys_call_table ia32_sys_call_table x32_sys_call_table", "()*[]")

# Files and mounts.
_each("super_blocks", "struct list_head")
_each("socket_file_ops pipefifo_fops shmem_file_operations", "struct file_operations")
_each("sockfs_dentry_operations pipefs_dentry_operations anon_inodefs_dentry_operations", "struct dentry_operations")
_each("ns_dentry_operations", "struct dentry_operations")
_each("anon_inode_mnt sock_mnt pipe_mnt shm_mnt", "struct vfsmount*")

# Network.
_each("net_namespace_list", "struct list_head")
_each("init_net", "struct net")
_each("nf_hooks", "struct list_head[][]")
_each("raw_seq_ops udp_seq_ops arp_seq_ops unix_seq_ops udp6_seq_ops raw6_seq_ops", "struct seq_operations")
_each("tcp_seq_ops tcp4_seq_ops tcp6_seq_ops packet_seq_ops", "struct seq_operations")
_each("tcp4_seq_afinfo tcp6_seq_afinfo", "struct tcp_seq_afinfo")
_each("udp4_seq_afinfo udp6_seq_afinfo udplite4_seq_afinfo udplite6_seq_afinfo", "struct udp_seq_afinfo")

# Devices.
_each("tty_drivers", "struct list_head")
_each("keyboard_notifier_list", "struct atomic_notifier_head")
_each("num_registered_fb", "int")
_each("registered_fb", "struct fb_info*[]")
