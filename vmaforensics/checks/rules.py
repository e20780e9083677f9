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
    return Rule(
        id=name, severity=severity, confidence=confidence, title=title, why=why, benign=benign, attack=attack
    )


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

RULES: tuple[Rule, ...] = (
    UNLINKED, MISSING, SURPLUS, RANGE, OWNER, BOUNDS, ORDER, BACKLINK, LINK, RB_SHAPE, RB_GAP,
    MT_NODE, MT_PIVOT, MT_NULL, MT_GAP, COUNTER, FAILED_FORK,
)  # fmt: skip
