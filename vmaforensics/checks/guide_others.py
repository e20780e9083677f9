"""Guides to the rules on allocated objects, processes, and what the kernel remembers outside of any area."""

from __future__ import annotations

from vmaforensics.checks.guide import Guide
from vmaforensics.views.view import View

_VM = "crash: vm PID"
_INDICES = (View.LIST, View.RBTREE, View.MAPLE)
_SLAB = "crash: kmem -s ADDRESS  # the object's cache, and whether it is allocated"

OTHERS: dict[str, Guide] = {
    "VMA-SLAB-ORPHAN": Guide(
        compares="allocated vm_area_structs whose own marks say that they are attached (vm_refcnt, detached) and whose "
        "vm_mm is that of a process, with the areas of its indices",
        views=(View.SLAB, *_INDICES),
        transient="munmap up to 6.3 frees an area after it left the index, under the write lock, then the read lock; "
        "later kernels mark it first. fork, mmap and splits allocate one before they insert it",
        by_hand=(
            "crash: kmem -S vm_area_struct",
            'drgn: slab_cache_for_each_allocated_object(cache, "struct vm_area_struct")',
            _VM,
        ),
    ),
    "VMA-SLAB-STATE": Guide(
        compares="every area of the index with the slab cache of such structures: it lies there and is allocated",
        views=(View.SLAB, *_INDICES),
        transient="exit frees the areas while the tree still leads to them; such an mm_struct has no users",
        by_hand=(_SLAB,),
    ),
    "TASK-HIDDEN": Guide(
        compares="the tasks of init_task.tasks and thread_head with those of the pid index, and with the allocated "
        "task_structs and those the run queues name",
        views=(View.TASKS, View.SOURCES, View.SLAB),
        transient="a task being forked (TASK_NEW) is in neither; one that has exited leaves both before it is freed",
        by_hand=("crash: ps", "crash: task TASK", "drgn: find_task(PID)  # by the pid index"),
    ),
    "MM-HIDDEN": Guide(
        compares="the mm_structs of pgd_list, the lru_gen list, root maple nodes and the slab, if they have areas and "
        "users, with those of all tasks",
        views=(View.SOURCES, View.SLAB, View.TASKS),
        transient="fork and exec have one that no task has yet or has any more; a reader may hold one whose process "
        "ended",
        by_hand=("crash: struct mm_struct.owner,mm_users,map_count MM", _SLAB),
    ),
    "MM-DECOY": Guide(
        compares="mm of each user task with its active_mm, and with the mm_struct that names the task its owner",
        views=(View.TASKS, View.SOURCES),
        transient="exec (in_execve), which sets both together",
        by_hand=("crash: struct task_struct.mm,active_mm TASK", "crash: struct mm_struct.owner MM"),
    ),
    "TASK-KTHREAD-MM": Guide(
        compares="PF_KTHREAD of each task with its mm, which should be NULL, and with the owner of that",
        views=(View.TASKS, View.SOURCES),
        transient="kthread_use_mm, for as long as a driver works on behalf of a process",
        by_hand=("crash: struct task_struct.flags,mm TASK",),
    ),
    "THREAD-OUTSIDE": Guide(
        compares="saved RIP and RSP of each thread that entered the kernel from user mode, or those of the CPU notes, "
        "with the areas of all indices",
        views=(View.ANCHORS, *_INDICES),
        transient="exec sets new registers before or after the new areas",
        by_hand=("crash: bt -f PID  # the user registers are at its end", _VM),
    ),
    "ANCHOR-OUTSIDE": Guide(
        compares="start_code to env_end, brk and vdso of mm_struct, the auxiliary vector, and addresses a thread "
        "handed to the kernel, with the areas of all indices",
        views=(View.ANCHORS, *_INDICES),
        transient="exec",
        by_hand=("crash: struct mm_struct.start_code,end_code,start_brk,brk,start_stack,arg_start,env_end MM", _VM),
    ),
    "HANDLER-OUTSIDE": Guide(
        compares="handlers and restorers of all signals with the areas of all indices",
        views=(View.ANCHORS, *_INDICES),
        transient="none: the kernel does not check them",
        by_hand=("crash: sig PID", _VM),
    ),
    "MM-EXE-UNMAPPED": Guide(
        compares="the inode of mm->exe_file with those of the files of all areas",
        views=(View.FILES, *_INDICES),
        transient="exec",
        by_hand=("crash: struct mm_struct.exe_file MM", _VM),
    ),
    "CPU-CR3-UNKNOWN": Guide(
        compares="CR3 of each CPU note, and cpu_tlbstate.loaded_mm, with the page tables of all processes",
        views=(View.ANCHORS, View.TASKS),
        transient="lazy TLB: a kernel thread runs on the tables of the process before it, which is allowed for",
        by_hand=("crash: p cpu_tlbstate:a",),
    ),
    "MEM-UNMAPPED-CODE": Guide(
        compares="files of shared memory without a path that are in no area and in no i_mmap: does the first page "
        "held begin as an ELF file or a script? Kept by descriptors, segments, queues of unix sockets or io_uring",
        views=(View.HANDLES, View.FILE_RMAP, *_INDICES),
        transient="none: such files are legal",
        by_hand=("crash: files PID",),
    ),
    "SHM-ATTACH-COUNT": Guide(
        compares="shm_nattch of each System V segment with the number of areas that map it, over all processes",
        views=(View.HANDLES, *_INDICES),
        transient="the count changes before or after the area does; lowered where a process was exiting or a map "
        "write-held",
        by_hand=("crash: ipcs -m", _VM),
    ),
    "VMA-EXEC-MEMFD": Guide(
        compares="nothing: tells executable areas of shared memory",
        views=(View.VMA, View.FILES),
        transient="none",
        by_hand=(_VM,),
    ),
    "VMA-EXEC-DELETED": Guide(
        compares="nothing: tells executable areas of files whose link count is 0",
        views=(View.VMA, View.FILES),
        transient="none",
        by_hand=(_VM, "crash: struct inode.i_nlink INODE"),
    ),
    "VMA-EXEC-ANON": Guide(
        compares="nothing: tells executable anonymous areas",
        views=(View.VMA,),
        transient="none",
        by_hand=(_VM,),
    ),
}
