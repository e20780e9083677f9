"""How guests are made to die, or to complain: what is done to them, and what they say then."""

from __future__ import annotations

from dataclasses import dataclass

PANICKED = "---[ end Kernel panic"
KASLR = "Kernel Offset: "  # the line before; the last one of a 5.10 that dies in an NMI
# A bad page, or a bad entry of a page table, taints the kernel (TAINT_BAD_PAGE, bit 5).
ON_BAD_PAGE = "panic_on_taint=0x20"


@dataclass(frozen=True)
class Death:
    """One way to die."""

    label: str  # what was done, in words
    says: str  # what the console shows then
    role: str = ""  # of guest/victims.c; is told to act when the record is complete and the edit made
    edit: str = ""  # of edits.py: what is changed in the memory of the stopped guest
    cmdline: str = ""
    nmi: bool = False
    panics: bool = True  # otherwise the kernel complains and runs on


DEATHS = {
    "nmi": Death(
        "an NMI from outside with unknown_nmi_panic", "NMI: Not continuing", cmdline="unknown_nmi_panic", nmi=True
    ),
    "oom": Death(
        "a process touches more memory than there is, with vm.panic_on_oom=1",
        "panic_on_oom is enabled",
        role="hog",
        cmdline="sysctl.vm.panic_on_oom=1",
    ),
    "rss": Death(
        "a resident-set counter of a process changed; then the process exits",
        "Bad rss-counter state",
        role="exits",
        edit="rss_counter",
        panics=False,
    ),
    "pte-cleared": Death(
        "the page-table entry of an anonymous page cleared; then the process exits",
        "Bad rss-counter state",
        role="exits",
        edit="pte_cleared",
        panics=False,
    ),
    "pte-flipped": Death(
        "a bit of a page-table entry flipped, as bad memory does it; then the process exits; panics by panic_on_taint",
        "Bad page map in process",
        role="exits",
        edit="pte_flipped",
        cmdline=ON_BAD_PAGE,
    ),
    "mapcount": Death(
        "the map count of an anonymous page one too high; then the process exits; panics by panic_on_taint",
        "Bad page state in process",
        role="exits",
        edit="page_mapcount",
        cmdline=f"page_poison=1 {ON_BAD_PAGE}",
    ),
    "page-mapping": Death(
        "the bit that says anonymous cleared in a page's mapping; then the process exits, with panic_on_oops",
        "general protection fault",
        role="exits",
        edit="page_mapping",
        cmdline=f"page_poison=1 {ON_BAD_PAGE} oops=panic",
    ),
    "map-count": Death(
        "mm->map_count one too high; then the process exits, with panic_on_oops",
        "kernel BUG at mm/",
        role="exits",
        edit="map_count",
        cmdline="oops=panic",
    ),
    "list": Death(
        "a process unlinked from the list of tasks; then it exits, with panic_on_oops",
        "list_del corruption",
        role="exits",
        edit="tasks_list",
        cmdline="oops=panic",
    ),
    "maple-slot": Death(
        "a bit of a pointer in a leaf of the maple tree flipped; then the process exits, with panic_on_oops",
        "unable to handle page fault",
        role="exits",
        edit="maple_slot",
        cmdline="oops=panic",
    ),
    "vma-mm": Death(
        "vm_mm of the first VMA of a process made NULL; then it exits, with panic_on_oops",
        "kernel NULL pointer dereference",
        role="exits",
        edit="vma_mm",
        cmdline="oops=panic",
    ),
    "vma-file": Death(
        "a bit of a VMA's vm_file flipped; then the process exits, with panic_on_oops",
        "general protection fault",
        role="exits",
        edit="vma_file",
        cmdline="oops=panic",
    ),
    "free-pointer": Death(
        "a byte of the free pointer in a freed VMA changed; then a process maps memory, with panic_on_oops",
        "unable to handle page fault",
        role="grows",
        edit="free_pointer",
        cmdline="oops=panic",
    ),
    "hung": Death(
        "the mmap_lock of a process write-locked for a thread that sleeps and will not give it back; "
        "then others want it, with hung_task_panic",
        "hung_task: blocked tasks",
        role="waits",
        edit="mmap_lock",
        cmdline="sysctl.kernel.hung_task_timeout_secs=5 sysctl.kernel.hung_task_panic=1",
    ),
    "deadlock": Death(
        "the mmap_lock of two processes write-locked, each by itself; then each wants the other's; hung_task_panic",
        "hung_task: blocked tasks",
        role="embrace",
        edit="mmap_locks",
        cmdline="sysctl.kernel.hung_task_timeout_secs=5 sysctl.kernel.hung_task_panic=1",
    ),
    "softlockup": Death(
        "a spinlock of a process (mm->arg_lock) locked for nobody; then the process wants it, with softlockup_panic",
        "softlockup: hung tasks",
        role="spins",
        edit="arg_lock",
        cmdline="watchdog_thresh=5 sysctl.kernel.softlockup_panic=1",
    ),
}
