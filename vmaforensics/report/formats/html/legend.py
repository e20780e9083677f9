"""What the words of the report mean."""

from __future__ import annotations

from vmaforensics.checks.rule import Severity

VIEWS = {
    "task list": "every task, linked through tasks and thread_node: which processes there are",
    "vm_next list": "vm_next from mm_struct.mmap: the VMAs in order, as /proc/PID/maps walks them before 6.1",
    "rbtree": "mm_struct.mm_rb: the VMAs as page faults find them before 6.1",
    "maple tree": "mm_struct.mm_mt: the VMAs as page faults and /proc/PID/maps find them from 6.1 on",
    "VMA": "the vm_area_struct objects that the indices lead to",
    "counters": "map_count, total_vm and others of mm_struct, counted as VMAs come and go",
    "files": "the files that VMAs map",
    "page tables": "the entries that the CPU itself uses: what memory a process can use",
    "struct page": "the kernel's record of each page: who maps it, and as what",
    "i_mmap": "per file: the VMAs that map it",
    "anon_vma": "per anonymous page: the VMAs that may map it",
    "slab": "the allocator's own record of which objects are in use",
    "mm sources": "everything else that knows of an address space: tasks, threads, page-table list, cgroups",
    "anchors": "addresses the kernel keeps of a program: code, data, stack, auxv, registers, signal handlers",
    "descriptors": "open files and memory files, and what maps them",
}

STATES = (
    ("held", "yes", "the view has a record of the region; the address is that of the record, or a short note"),
    ("missing", "no", "the view was read whole and has no record of it, or one that says otherwise"),
    ("unread", "unread", "the part of the view that would hold it could not be read"),
    ("none", "–", "the view need not have one"),
)

SEVERITIES = tuple((severity.value, severity.meaning) for severity in Severity)

ALLOWED = (
    ("allow-x", "executable"),
    ("allow-w", "writable, not executable"),
    ("allow-r", "neither"),
)
