"""What each kind of complaint means, where it comes from, and what to look at next.

``docs/complaints.md`` is made of it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from vmaforensics.crash.patterns import Kind


class Meaning(NamedTuple):
    """A paragraph in three sentences or so."""

    says: str  # what was found wrong, and what it takes for that
    look: str  # at what next
    source: str  # file and function of the kernel


MEANINGS: Final[dict[Kind, Meaning]] = {
    Kind.PANIC: Meaning(
        "The kernel gave up, for the reason in the text. Nothing runs after it but what writes the dump.",
        "The complaint just before it says more than the panic itself wherever the text is general ('Fatal "
        "exception').",
        "kernel/panic.c: panic, vpanic",
    ),
    Kind.SYSRQ: Meaning(
        "Somebody asked for the crash, by SysRq c or through /proc/sysrq-trigger: nothing is wrong with the kernel.",
        "Why somebody did: what tasks wait for, what each CPU ran, and the log before it.",
        "drivers/tty/sysrq.c: sysrq_handle_crash",
    ),
    Kind.NULL_POINTER: Meaning(
        "Kernel code used a pointer that was NULL; the address is the offset of the member that it wanted. Either "
        "nobody checks there, or a pointer that is never NULL was overwritten.",
        "The structure that has a member at that offset, and who holds a pointer to one: the word that is NULL lies "
        "in an object that another register leads to.",
        "arch/x86/mm/fault.c: show_fault_oops",
    ),
    Kind.PAGE_FAULT: Meaning(
        "Kernel code used an address that no page table of the kernel maps. The pointer was freed and is used again, "
        "was overwritten, or lost a bit to bad memory.",
        "Registers that hold the address less a few bytes: the word they were loaded from still has the pointer. One "
        "bit off a sound pointer speaks for hardware, text or a pattern for a stray write.",
        "arch/x86/mm/fault.c: show_fault_oops, page_fault_oops",
    ),
    Kind.PROTECTION_FAULT: Meaning(
        "The CPU refused an address that cannot be one (its upper bits are not all alike), or an instruction that "
        "broke a rule. 0xdead…100 and 0xdead…122 are LIST_POISON: a list entry used after it was removed; 0x6b… is "
        "freed slab memory, 0xaa… a poisoned free page.",
        "The register with such a value, and the object it was loaded from.",
        "arch/x86/kernel/traps.c: exc_general_protection",
    ),
    Kind.BUG: Meaning(
        "Kernel code checked a condition that must hold (BUG_ON), and it did not. The file and line name the check; "
        "line numbers are those of just this build's source.",
        "The check itself, and the object whose fields it compares: one of them was wrong before this code ran.",
        "lib/bug.c: report_bug",
    ),
    Kind.EXCEPTION: Meaning(
        "The CPU met an exception in kernel code that is none of a wrong address: an instruction that does not exist,"
        " a division by zero, a stack that ran over (double fault), a call to a wrong target (CFI).",
        "The instruction bytes in angle brackets in the Code: line, and whether the code there is what the kernel was"
        " built with; for double faults how deep the stack is.",
        "arch/x86/kernel/traps.c",
    ),
    Kind.OOPS: Meaning(
        "The kernel met an error in its own code and ended the task that ran, with whatever locks it held.",
        "The first oops only ([#1]): what comes after it may be of its making.",
        "arch/x86/kernel/dumpstack.c: __die",
    ),
    Kind.WARNING: Meaning(
        "Kernel code found something that should not be and went on. Often harmless, sometimes the first sign of what"
        " breaks later.",
        "Whether it is of the same object or subsystem as the complaints after it.",
        "kernel/panic.c: __warn",
    ),
    Kind.BAD_PAGE_MAP: Meaning(
        "A page-table entry leads to no page frame that the kernel knows, to one that must not be mapped there, or "
        "has bits that entries do not have. Entries are written by the kernel alone: a bit was flipped, a stray write"
        " hit the table, or the table was freed while in use. Afterwards counters of the process are wrong too.",
        "The entry, and that with one bit other; the page it should lead to (mapping and index say which); the "
        "table's neighbouring entries: one that is wrong speaks for hardware, a row of them for a stray write.",
        "mm/memory.c: print_bad_pte, print_bad_page_map",
    ),
    Kind.BAD_PAGE_STATE: Meaning(
        "A page that was given back, or was about to be handed out, was not as a free page is: it was still mapped, "
        "held, charged, or belonged to something. Its struct page was written to, it was freed twice, or is used "
        "after free.",
        "The reason names the member. If the page was anonymous, its index says where it was mapped: are entries left"
        " that lead to the frame? What follows with the same frame belongs to it.",
        "mm/page_alloc.c: bad_page, page_bad_reason; mm/debug.c: dump_page",
    ),
    Kind.BAD_RSS: Meaning(
        "An address space ended, its page tables were torn down, and a counter of resident pages was not 0. Positive:"
        " entries vanished without being counted, or the counter was raised; negative: the other way round.",
        "Pages that count a mapping which no page table has: as many as the value means that entries are gone. None: "
        "it was the counter. The process is gone by then, and who prints the line need not be it.",
        "kernel/fork.c: check_mm",
    ),
    Kind.PAGE_TABLE_LEAK: Meaning(
        "An address space ended and the bytes counted for its page tables were not 0: a table was not freed, was "
        "freed uncounted, or the counter was written to.",
        "Multiples of the page size are tables; anything else is the counter itself. Pages of type table that no "
        "process has are those that leaked.",
        "kernel/fork.c: check_mm",
    ),
    Kind.LIST_CORRUPTION: Meaning(
        "An entry was to be put on or taken off a doubly linked list, and its neighbours do not lead to each other. "
        "LIST_POISON: it was removed before. Otherwise a word of a neighbour was overwritten, or the list was changed"
        " without its lock.",
        "The word that the line names, and what object it lies in. Two neighbours that lead past the entry, which "
        "itself is whole, were written on purpose: that is how rootkits hide tasks and modules.",
        "lib/list_debug.c",
    ),
    Kind.SLAB: Meaning(
        "The slab allocator found one of its objects damaged: red zones or poison overwritten, a free pointer that "
        "leads nowhere, an object freed twice. It is checked only with slab_debug=, free pointers always.",
        "The object and its neighbour before it, which may have run over; who allocated and freed it, if the report "
        "says.",
        "mm/slub.c: slab_bug, object_err",
    ),
    Kind.MAPLE_TREE: Meaning(
        "The tree of a memory map broke one of its own rules: pivots not ascending, a slot that must not be empty, a "
        "gap that is not as large as recorded. Only kernels built with CONFIG_DEBUG_MAPLE_TREE say so.",
        "The node that the dump shows; all of its slots and pivots.",
        "include/linux/maple_tree.h: MAS_BUG_ON; lib/maple_tree.c: mt_dump",
    ),
    Kind.STACK_CORRUPTION: Meaning(
        "A function found the guard value at the end of its stack frame overwritten, or the scheduler that at the end"
        " of a whole stack: something wrote beyond a local array, or too many calls were nested.",
        "What lies on the stack just above the buffer of the function that is named.",
        "kernel/panic.c: __stack_chk_fail; kernel/sched/core.c: schedule_debug",
    ),
    Kind.USE_AFTER_FREE: Meaning(
        "A checker (KASAN, KFENCE) caught an access to memory that was freed, or beyond the end of an object.",
        "The stacks of allocation and freeing beneath it: the bug is between those, not where it was noticed.",
        "mm/kasan/report.c, mm/kfence/report.c",
    ),
    Kind.SOFT_LOCKUP: Meaning(
        "A CPU ran kernel code for more than twice watchdog_thresh seconds without letting another task run; "
        "interrupts still came. A loop without end, or a lock that is spun on. In guests also a host that did not run"
        " them.",
        "What was interrupted, not the interrupt. If that is a lock: who holds it; if a walk: does the structure loop?",
        "kernel/watchdog.c: watchdog_timer_fn",
    ),
    Kind.HARD_LOCKUP: Meaning(
        "A CPU took no timer interrupts for watchdog_thresh seconds: it spins with interrupts off.",
        "The stack of that CPU from its NMI on, and which spinlock it wants; who else is in the same code.",
        "kernel/watchdog.c: watchdog_hardlockup_check",
    ),
    Kind.RCU_STALL: Meaning(
        "A grace period of RCU did not end: a CPU or a preempted task stays in a read-side section, or the CPU does "
        "not get to run its timer. Memory freed through RCU piles up meanwhile.",
        "The CPUs or tasks that are listed; whether the grace-period kthread itself starves (it says so).",
        "kernel/rcu/tree_stall.h: print_cpu_stall, print_other_cpu_stall",
    ),
    Kind.HUNG_TASK: Meaning(
        "A task was in uninterruptible sleep for longer than hung_task_timeout_secs. It is the victim, seldom the "
        "culprit: it waits for a lock or for a device.",
        "What it waits for: the owner of the lock, and what that one waits for; tasks with the same stack wait alike.",
        "kernel/hung_task.c: check_hung_task",
    ),
    Kind.OUT_OF_MEMORY: Meaning(
        "An allocation could not be served even after reclaim. The task that asked is often innocent; the one that is"
        " killed is the one with the most resident pages, weighed by oom_score_adj.",
        "Where the memory went: the figures beneath it, slabs that cannot be reclaimed, tmpfs; the constraint, since "
        "a memory cgroup may be full while the machine is not.",
        "mm/oom_kill.c: dump_header, __oom_kill_process",
    ),
    Kind.NMI: Meaning(
        "A non-maskable interrupt came that no handler wanted: a button, a management controller, the hypervisor, or "
        "the hardware reporting an error.",
        "Whether somebody sent it (virsh inject-nmi, ipmitool) to get a dump: then what each CPU ran is what matters.",
        "arch/x86/kernel/nmi.c: unknown_nmi_error",
    ),
    Kind.MACHINE_CHECK: Meaning(
        "The hardware reported an error of its own: memory, caches, buses.",
        "Bank, status and address in the record; words that are one bit off sound ones elsewhere in the image.",
        "arch/x86/kernel/cpu/mce/core.c",
    ),
    Kind.INIT_DIED: Meaning(
        "Process 1 ended. Without it the kernel cannot go on. exitcode is a wait status: the signal in the low 7 "
        "bits, the exit code in bits 8 to 15.",
        "The last lines that init or a program for it wrote; library or disk errors before.",
        "kernel/exit.c: do_exit",
    ),
    Kind.NO_ROOT: Meaning(
        "The root file system could not be mounted: no such device, no driver, or root= is wrong.",
        "root= on the command line, and the disks that the log has.",
        "init/do_mounts.c: mount_block_root",
    ),
    Kind.TAINT: Meaning(
        "Something tainted the kernel with a bit that panic_on_taint names: the panic is a setting, the cause is "
        "before it.",
        "The complaint before it.",
        "kernel/panic.c: add_taint",
    ),
    Kind.OTHER_BUG: Meaning(
        "Kernel code found a rule broken that must hold: the line says which.",
        "The functions beneath it, and the context (atomic, interrupts off, a lock held) that the line speaks of.",
        "the function that the trace begins with",
    ),
}
