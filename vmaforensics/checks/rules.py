"""Every rule, in one table. Ids never change; a rule that is given up leaves its id unused."""

from __future__ import annotations

from vmaforensics.checks.finding import Confidence, Rule, Severity

_SMEAR = "the image was taken while the machine ran, and these records were read at different moments"
_BUSY = "the memory map was being changed at that moment (the mmap lock says whether it was held)"
_BUG = "memory corruption by a kernel bug or by faulty hardware"

# Hidden by editing kernel objects: Rootkit; Hide Artifacts.
_HIDE = ("T1014", "T1564")


def _rule(
    name: str,
    title: str,
    why: str,
    *,
    severity: Severity = Severity.HIGH,
    confidence: Confidence = Confidence.HIGH,
    benign: tuple[str, ...] = (_SMEAR, _BUSY, _BUG),
    attack: tuple[str, ...] = _HIDE,
) -> Rule:
    return Rule(id=name, severity=severity, confidence=confidence, title=title, why=why, benign=benign, attack=attack)


UNLINKED = _rule(
    "VMA-UNLINKED",
    "area in one index of the memory map and not in another",
    "The kernel adds an area to the list and to the tree under one lock. Tools that read only one of them "
    "do not see this area.",
)
MISSING = _rule(
    "VMA-MISSING",
    "area has been taken out of the memory map",
    "The index of the memory map holds fewer areas or pages than the kernel counted in. The area's pages stay "
    "mapped and usable, while /proc/PID/maps and every tool that walks the index leave it out.",
)
SURPLUS = _rule(
    "VMA-SURPLUS",
    "area in the memory map that the kernel never counted in",
    "The index holds more areas or pages than the kernel's counters. An area that was put in by hand, or one "
    "that was made larger, looks like this.",
)
RANGE = _rule(
    "VMA-RANGE",
    "index range and bounds of an area differ",
    "A page fault finds an area by its index range, /proc and most tools print vm_start and vm_end. Memory "
    "between the two bounds is usable and not shown, or shown and not usable.",
)
OWNER = _rule(
    "VMA-OWNER",
    "area belongs to another address space",
    "Every area points back to the mm_struct whose index holds it. A foreign area in an index was put there "
    "by hand or by corruption.",
    benign=(_SMEAR, _BUSY, "a fork that failed half-way (6.8 and later leave the parent's areas behind)", _BUG),
)
BOUNDS = _rule(
    "VMA-BOUNDS",
    "impossible bounds of an area",
    "Areas are never empty, are aligned to pages and end below the top of user space.",
)
ORDER = _rule(
    "VMA-ORDER",
    "areas overlap or are out of order",
    "The kernel keeps areas in ascending order and never lets two overlap; look-ups go wrong otherwise.",
)
BACKLINK = _rule(
    "VMA-BACKLINK",
    "backward link of the list disagrees",
    "vm_prev leads back along the list. Unlinking an area by hand has to mend it, and often is not complete.",
)
LINK = _rule(
    "VMA-LINK",
    "broken link in the memory map",
    "A pointer of the list or tree leads nowhere, back into itself or into another address space. Walks stop "
    "or never end there, and what lies behind cannot be seen by them.",
)
RB_SHAPE = _rule(
    "RB-SHAPE",
    "red-black tree violates its own rules",
    "Parent pointers, order and colours follow from each other; only a write that bypassed the kernel's tree "
    "code breaks them.",
)
RB_GAP = _rule(
    "RB-GAP",
    "gap recorded in the red-black tree is not the gap there is",
    "Each node records the largest free gap below it. Cutting an area out by hand leaves that record as it was.",
)
MT_NODE = _rule(
    "MT-NODE",
    "maple tree node does not fit its parent",
    "Parent words, types and depth of nodes follow from their place; only a write that bypassed the kernel's "
    "tree code breaks them.",
)
MT_PIVOT = _rule(
    "MT-PIVOT",
    "pivots of a maple tree node are impossible",
    "Pivots rise from slot to slot within the node's own range and end with it. A moved or cut pivot hides or "
    "resizes what its slot holds.",
)
MT_NULL = _rule(
    "MT-NULL",
    "empty range in the maple tree that the kernel would not leave",
    "The kernel joins neighbouring empty ranges and uses no slot behind a node's end. A slot emptied by hand "
    "shows as two empty ranges side by side.",
)
MT_GAP = _rule(
    "MT-GAP",
    "gap recorded in the maple tree is not the gap there is",
    "Inner nodes record the largest empty range below them. Emptying a slot by hand leaves that record as it was.",
)
COUNTER = _rule(
    "MM-COUNTER",
    "counter of the address space disagrees with its areas",
    "These counters are exact while the mmap lock is free. A difference means that areas were added, removed "
    "or changed without the kernel's own code.",
    severity=Severity.MEDIUM,
)
FAILED_FORK = _rule(
    "MT-RESERVED",
    "reserved entry left by a failed fork",
    "When a fork fails half-way, kernels from 6.8 on mark the place; areas behind it still are the parent's.",
    severity=Severity.INFO,
    benign=("the system was short of memory while the process forked",),
    attack=(),
)

PTE_ORPHAN = _rule(
    "PTE-ORPHAN",
    "memory mapped by the page tables outside every area",
    "The CPU goes by the page tables alone. Memory mapped there without an area is usable and is shown by no "
    "tool that lists areas; the kernel never leaves such entries behind.",
    attack=("T1014", "T1564", "T1055"),
)
PTE_PERM = _rule(
    "PTE-PERM",
    "page table and area allow different things",
    "The CPU heeds the page table, people read vm_flags. Entries that allow more than their area were changed "
    "by hand, and so was an area that looks harmless and whose pages can be executed.",
    attack=("T1014", "T1055"),
)
PTE_KERNEL = _rule(
    "PTE-KERNEL",
    "user page table leads to the kernel's own memory",
    "A process that has slab objects or page tables in its own address space can change the kernel at will.",
    severity=Severity.CRITICAL,
    attack=("T1014", "T1068"),
)
PTE_REMAP = _rule(
    "PTE-REMAP",
    "page in an area belongs elsewhere",
    "Every page names the file or anon_vma it belongs to and its place there. A page that names another one "
    "was put into the page table by hand: what is shown as the area's contents is not what runs.",
    attack=("T1014", "T1055"),
)
ERASED = _rule(
    "PTE-ERASED",
    "page counts other mappings than page tables hold",
    "A page counts the entries that lead to it. One that was erased, or added, by hand leaves the count as it "
    "was: the contents are kept for later, out of reach of every tool that follows page tables.",
)
PROT = _rule(
    "VMA-PROT",
    "vm_page_prot does not follow from vm_flags",
    "vm_page_prot is what the next page fault puts into the page table, vm_flags is what tools show.",
)
PT_SHARED = _rule(
    "PT-SHARED",
    "page table reached from two places",
    "Two processes, or two places of one, that share a page table share its memory without any record of it.",
)
PT_ISOLATION = _rule(
    "PT-ISOLATION",
    "copies of the page tables disagree",
    "With page-table isolation a process has two top-level tables, and their user halves are equal.",
)
TEXT_MODIFIED = _rule(
    "TEXT-MODIFIED",
    "code in memory is not the code of its file",
    "Code is mapped from the page cache. A page in its place that holds other bytes was written to in memory alone: a "
    "hook, a patch or a breakpoint that no look at the file on the disk will show.",
    benign=(
        "a debugger that set breakpoints, and may have left",
        "text relocations, and programs that patch their own code: these had the area writable",
        "the file was written to after the page had been copied",
        _SMEAR,
        _BUG,
    ),
    attack=("T1055",),
)
RSS = _rule(
    "MM-RSS",
    "resident-set counter disagrees with the page tables",
    "The counters are exact once all their parts are added. Entries added or erased by hand are not counted.",
    severity=Severity.MEDIUM,
)
PGTABLES = _rule(
    "MM-PGTABLES",
    "pgtables_bytes disagrees with the page tables",
    "Every page-table page is counted. Tables that are hung in by hand are not, and hidden ones still are.",
    severity=Severity.MEDIUM,
)

RMAP_FILE_HIDDEN = _rule(
    "RMAP-FILE-HIDDEN",
    "area of a file that no index of the memory map holds",
    "Every area of a file hangs in the file's i_mmap too. One that hangs there, belongs to a running process and is "
    "in no index of its memory map was taken out of it by hand; its pages stay mapped and usable.",
)
RMAP_ANON_HIDDEN = _rule(
    "RMAP-ANON-HIDDEN",
    "area of anonymous memory that no index of the memory map holds",
    "An anon_vma's tree leads to every area that may map its pages. One that hangs there, belongs to a running "
    "process and is in no index of its memory map was taken out of it by hand.",
)
RMAP_FILE_MISSING = _rule(
    "RMAP-FILE-MISSING",
    "area of a file is not in the file's i_mmap",
    "The kernel links every area that has a file into i_mmap, to find it when pages are written back, truncated or "
    "reclaimed. An area that is not there escapes whoever looks for the users of the file.",
)
RMAP_ANON_MISSING = _rule(
    "RMAP-ANON-MISSING",
    "area is not linked to the reverse map of its anonymous pages",
    "An area with anonymous pages is chained to its anon_vma and hangs in its tree. An area that is not there "
    "escapes whoever looks for the users of a page; an anon_vma pointer that was changed makes it look like another.",
)
RMAP_FILE_MISMATCH = _rule(
    "RMAP-FILE-MISMATCH",
    "area shows another file or other pages than its reverse map",
    "vm_file and vm_pgoff are what /proc and most tools print. The reverse map was built from them when the area was "
    "made: where they contradict it, they were changed afterwards, to pass for something else.",
    attack=("T1014", "T1564", "T1036"),
)
RMAP_TREE = _rule(
    "RMAP-TREE",
    "reverse map violates its own rules",
    "Order, recorded last pages, parent pointers and counts of a reverse map follow from its areas. Cutting an area "
    "out by hand leaves those as they were.",
    severity=Severity.MEDIUM,
)

THREAD_OUTSIDE = _rule(
    "THREAD-OUTSIDE",
    "thread runs outside every area of its memory map",
    "A thread that entered the kernel from user mode came from memory that was mapped. If no area holds the "
    "address it will return to, that area has been hidden.",
    benign=(_SMEAR, _BUSY, "the thread unmapped the code it was running, and is about to be killed", _BUG),
)
ANCHOR_OUTSIDE = _rule(
    "ANCHOR-OUTSIDE",
    "address that the kernel remembers of a process lies in no area",
    "The program's own parts and what its threads handed to the kernel lie in areas when they are set up. An area "
    "that has been hidden since leaves such addresses behind.",
    severity=Severity.INFO,
    confidence=Confidence.LOW,
    benign=("programs may unmap or move any of their parts", "prctl(PR_SET_MM) sets such addresses at will"),
    attack=("T1055",),
)
HANDLER_OUTSIDE = _rule(
    "HANDLER-OUTSIDE",
    "signal handler outside every area of the memory map",
    "A handler is code. If no area holds it, the code is gone or hidden.",
    severity=Severity.LOW,
    confidence=Confidence.LOW,
    benign=("a library that set the handler has been unloaded", "the program never meant the signal to arrive"),
    attack=("T1564",),
)
EXE_UNMAPPED = _rule(
    "MM-EXE-UNMAPPED",
    "no area maps the program file",
    "The process is said to run a file of which nothing is mapped: its code has been replaced or moved elsewhere.",
    severity=Severity.INFO,
    benign=(
        "programs that copy themselves into anonymous memory (packers, huge pages for code)",
        "programs that unmap what they no longer need",
        "prctl(PR_SET_MM_EXE_FILE), as used when a process is restored",
    ),
    attack=("T1055",),
)
CR3_UNKNOWN = _rule(
    "CPU-CR3-UNKNOWN",
    "CPU runs on page tables of no known process",
    "CR3 names the page tables a CPU really uses. Tables that belong to no task's memory map are those of a hidden "
    "process, or of a memory map that was swapped for a decoy.",
    severity=Severity.MEDIUM,
    confidence=Confidence.MEDIUM,
    benign=(
        _SMEAR,
        "the kernel's own: firmware calls, a CPU being started, the hand-over to a crash kernel",
        "a memory map whose process has ended while something in the kernel still used it",
    ),
)
UNMAPPED_CODE = _rule(
    "MEM-UNMAPPED-CODE",
    "program code in a memory file that nothing maps",
    "A file that exists in memory only, has no path and is mapped nowhere can keep code out of every memory map "
    "until the moment it is needed.",
    severity=Severity.MEDIUM,
    confidence=Confidence.MEDIUM,
    benign=(
        "installers and container runtimes that hand programs over as a memfd",
        "a file in flight from one process to another",
    ),
    attack=("T1620", "T1564"),
)
SHM_ATTACH = _rule(
    "SHM-ATTACH-COUNT",
    "System V segment is attached more or less often than areas show",
    "shm_nattch counts the areas that map a segment, in all processes together. If areas are missing they have "
    "been hidden.",
    benign=(_SMEAR, _BUSY, "a process that attaches or exits at that moment", "a memory map that outlives its process"),
)
EXEC_MEMFD = _rule(
    "VMA-EXEC-MEMFD",
    "executable memory of a file that has no path",
    "Code in a memfd or in shared memory never was on a disk.",
    severity=Severity.LOW,
    confidence=Confidence.LOW,
    benign=("just-in-time compilers", "libffi closures", "container runtimes that run a copy of themselves"),
    attack=("T1620",),
)
EXEC_DELETED = _rule(
    "VMA-EXEC-DELETED",
    "executable memory of a deleted file",
    "Code whose file is gone can be had from memory only.",
    severity=Severity.LOW,
    confidence=Confidence.LOW,
    benign=("the package was upgraded while the program ran", "programs that delete what they unpacked"),
    attack=("T1070.004",),
)
EXEC_ANON = _rule(
    "VMA-EXEC-ANON",
    "executable memory without a file",
    "Injected code lies in such memory, as does code that a program makes at run time.",
    severity=Severity.LOW,
    confidence=Confidence.LOW,
    benign=("just-in-time compilers", "trampolines and closures", "programs linked to need executable stacks"),
    attack=("T1055",),
)

SLAB_ORPHAN = _rule(
    "VMA-SLAB-ORPHAN",
    "area is alive and in no index of the memory map",
    "The kernel takes an area out of the index and marks and frees its vm_area_struct under one lock. One that is "
    "allocated, unmarked and in no index was cut out by hand; its pages stay mapped and usable.",
)
SLAB_STATE = _rule(
    "VMA-SLAB-STATE",
    "area in the memory map was never allocated, or has been freed",
    "The kernel takes every vm_area_struct from one slab cache. One that lies elsewhere was made by hand; one that is "
    "free there shows what the area has been, not what it is.",
)
MT_ROOT = _rule(
    "MT-ROOT",
    "another maple tree belongs to the address space than the one it uses",
    "A live root node points back to the tree it is the root of. If that tree's root is another node, the whole tree "
    "was exchanged by a write that bypassed the kernel's tree code.",
)
TASK_HIDDEN = _rule(
    "TASK-HIDDEN",
    "process is missing in a record of all processes",
    "The kernel adds a process to its list and to the index of process ids together, and takes it out of both "
    "together. Tools read one of them; a process that is only in the other is hidden from those.",
    benign=(_SMEAR, "a process that was just being made or had just ended", _BUG),
)
MM_HIDDEN = _rule(
    "MM-HIDDEN",
    "address space in use belongs to no process",
    "Page directories, reclaim and the allocator have records of address spaces of their own. One with areas and "
    "users that no process has is the memory of a process that was hidden.",
    benign=(
        _SMEAR,
        "a process that was forking or about to run another program",
        "a process that has ended while somebody still held its memory",
        _BUG,
    ),
)
MM_DECOY = _rule(
    "MM-DECOY",
    "process shows the memory map of another address space",
    "mm, active_mm and the owner of an address space name each other. A process whose mm was exchanged runs on its "
    "own memory, while /proc and most tools show that of another.",
    benign=(_SMEAR, "a process that was about to run another program", _BUG),
    attack=("T1014", "T1564", "T1036"),
)
KTHREAD_MM = _rule(
    "TASK-KTHREAD-MM",
    "kernel thread uses the memory of a process",
    "Kernel threads have no memory map. A process with the mark of a kernel thread is left out by tools that look "
    "for processes only.",
    severity=Severity.LOW,
    confidence=Confidence.LOW,
    benign=("a driver that works on behalf of a process (kthread_use_mm: vhost, shared virtual addressing)", _SMEAR),
    attack=("T1014", "T1564", "T1036"),
)

RULES: tuple[Rule, ...] = (
    UNLINKED,
    MISSING,
    SURPLUS,
    RANGE,
    OWNER,
    BOUNDS,
    ORDER,
    BACKLINK,
    LINK,
    RB_SHAPE,
    RB_GAP,
    MT_NODE,
    MT_PIVOT,
    MT_NULL,
    MT_GAP,
    COUNTER,
    FAILED_FORK,
    PTE_ORPHAN,
    PTE_PERM,
    PTE_KERNEL,
    PTE_REMAP,
    TEXT_MODIFIED,
    ERASED,
    PROT,
    PT_SHARED,
    PT_ISOLATION,
    RSS,
    PGTABLES,
    RMAP_FILE_HIDDEN,
    RMAP_ANON_HIDDEN,
    RMAP_FILE_MISSING,
    RMAP_ANON_MISSING,
    RMAP_FILE_MISMATCH,
    RMAP_TREE,
    THREAD_OUTSIDE,
    ANCHOR_OUTSIDE,
    HANDLER_OUTSIDE,
    EXE_UNMAPPED,
    CR3_UNKNOWN,
    UNMAPPED_CODE,
    SHM_ATTACH,
    EXEC_MEMFD,
    EXEC_DELETED,
    EXEC_ANON,
    SLAB_ORPHAN,
    SLAB_STATE,
    MT_ROOT,
    TASK_HIDDEN,
    MM_HIDDEN,
    MM_DECOY,
    KTHREAD_MM,
)
