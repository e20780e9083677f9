"""What the lines of a complaint name: addresses, entries, frames, counters, objects, figures.

The kernel prints most addresses as they are (``%px``, registers, ``raw:`` words), and some hashed (``%p``): those lead
to nothing, and are kept apart by a name that ends in ``_hashed``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Lines are regular expressions in which {name:x} stands for a hexadecimal number of that name, {name:d} for a decimal
# one, {name:h} for what was printed with %p, {name:w} for a word, {name:s} for text, {:c} for a command name.
# A number has no more digits than one of 64 bits: what is longer was not printed by the kernel.
_KINDS: Final = {
    "x": "[0-9a-f]{1,16}",
    "d": r"-?[0-9]{1,19}",
    "h": r"(?:[0-9a-f]{1,16}|\(null\)|\(ptrval\))",
    "w": r"\S{1,100}",
}
_KINDS_OF_TEXT: Final = {"s": ".{1,255}?", "c": ".{1,15}"}

# check_mm of kernel/fork.c; print_bad_pte and print_bad_page_map of mm/memory.c; bad_page of mm/page_alloc.c;
# __dump_page, dump_vma and dump_mm of mm/debug.c.
_MEMORY: Final = r"""
BUG: Bad rss-counter state mm:{mm:h} (type|idx):{counter:w} val:{value:d}( Comm:{dropped by:c} Pid:{dropped by pid:d})?$
BUG: non-zero pgtables_bytes on freeing mm: {pgtables_bytes:d}$
BUG: Bad page map in process {:c}  pte:{pte:x}( pmd:{pmd:x})?$
BUG: Bad page map in process {:c}  {level:w}:{entry:x}$
pgd:{pgd:x}( p4d:{p4d:x})?( pud:{pud:x})?( pmd:{pmd:x})?$
addr:{address:x} vm_flags:{vm_flags:x} anon_vma:{anon_vma:x} mapping:{mapping:x} index:{index:x}
file:{file:s} fault:{fault handler:w} mmap:{mmap:w}
BUG: Bad page (state|cache) in process {:c}  pfn:{pfn:x}$
page:( ?{page:x})? refcount:{refcount:d} mapcount:{mapcount:d} mapping:{mapping:h} index:(0x)?{index:x} pfn:(0x)?{pfn:x}
head:.* order:{order:d}\b
(aops:)?{aops:w} ino:{inode:x} dentry name(\(\?\))?:"{dentry:s}"
page dumped because: {because:s}$
vma {vma:x} start {start:x} end {end:x}( mm {mm:x})?$
next [0-9a-f]{16} prev [0-9a-f]{16} mm {mm:x}$
mm {mm:x} (mmap|task_size) .*
pgd [0-9a-f]{16} mm_users \d+ mm_count \d+ pgtables_bytes {pgtables_bytes:d} (map|vma)_count {map_count:d}$
"""
# lib/list_debug.c
_LISTS: Final = r"""
list_del corruption[.,] prev->next should be {entry:x}, but was {was:x}(\. \(prev={prev:x}\))?
list_del corruption[.,] next->prev should be {entry:x}, but was {was:x}(\. \(next={next:x}\))?
list_del corruption, {entry:x}->{member:w} is {poison:w}
list_add corruption\. next->prev should be prev \({prev:x}\), but was {was:x}\. \(next={next:x}\)
list_add corruption\. prev->next should be next \({next:x}\), but was {was:x}\. \(prev={prev:x}\)
list_add corruption\. {member:w} is {poison:w}
list_add double add: new={entry:x}, prev={prev:x}, next={next:x}
"""
# show_fault_oops of arch/x86/mm/fault.c; exc_general_protection; kmem_dump_obj of mm/slab_common.c; slab_bug and
# print_trailer of mm/slub.c; mm/kasan/report.c; mm/kfence/report.c; lib/bug.c; MT_BUG_ON, mt_dump.
_OBJECTS: Final = r"""
BUG: kernel NULL pointer dereference, address: {fault address:x}$
BUG: unable to handle page fault for address: {fault address:x}$
BUG: unable to handle kernel (paging request|NULL pointer dereference) at {fault address:x}$
#PF: {privilege:w} {access:s} in \w+ mode$
#PF: error_code\(0x{error_code:x}\) - {fault:s}$
PGD {pgd:x} (P4D {p4d:x} )?(PUD {pud:x} )?(PMD {pmd:x} )?(PTE {pte:x} ?)?$
(Oops: )?general protection fault, (probably|maybe|kernel).{0,60} (address|range) 0x{bad pointer:x}
 ?slab {cache:w} start {object:x}( data offset \d+)? pointer offset {offset:d}( size {size:d})?
BUG {cache:w} \((Not tainted|Tainted: .{1,40})\): {because:s}$
Object 0x{object:h} @offset={offset:d} fp=0x{free pointer:h}
kfence-#\d+: 0x{object:h}-0x[0-9a-f]+, size={size:d}, cache={cache:w}$
(Read|Write) of size {size:d} at addr {address:x} by task .*
[kK]ernel BUG at {source:w}!$
(BUG|WARN) at {source:w} \(\d+\)$
maple_tree\({maple tree:h}\) flags [0-9A-Fa-f]+, height {height:d} root .*
"""
# kernel/watchdog.c, kernel/hung_task.c, kernel/rcu/tree_stall.h, mm/oom_kill.c
_WATCHDOGS: Final = r"""
(watchdog: )?BUG: soft lockup - CPU#{cpu:d} stuck for {seconds:d}s! .*
.*hard LOCKUP on cpu {cpu:d}$
INFO: task {:c}:{pid:d} blocked (in I/O wait )?for more than {seconds:d} seconds\.
INFO: task {:c}:\d+ .*blocked on an? {lock:w} likely (owned|last held) by task {:c}:{owner:d}
(rcu: )?INFO: {flavour:w} (detected|self-detected) .*
(rcu: )?\s+{cpu:d}-\S+: \({ticks:d} (ticks this GP|GPs behind)\) .*
(rcu: )?\s*\(t={jiffies:d} jiffies .*
{:c} invoked oom-killer: gfp_mask=0x{gfp_mask:x}\S*, order={order:d},
oom-kill:constraint={constraint:w},nodemask=.*,task={:c},pid={victim:d},uid={uid:d}$
(\w+ \w+ out|Out) of memory: Killed process {victim:d} \({:c}\) total-vm:{total_vm KiB:d}kB, anon-rss:{anon KiB:d}kB
"""
_MOST_RAW: Final = 32  # words of struct pages
_HASHED: Final = "_hashed"
_RAW: Final = re.compile(r"raw:((?: [0-9a-f]{16}){1,8})\s*$")
_SLOT: Final = re.compile(r"\{(?P<name>[\w ]*):(?P<kind>[a-z])\}")


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that is known: its pattern, and what the groups of it are, in order: (name, kind)."""

    pattern: re.Pattern[str]
    groups: tuple[tuple[str, str, str], ...]  # of the group, of the thing, its kind

    @classmethod
    def of(cls, text: str) -> _Line:
        """Of a line in the notation above."""
        groups: list[tuple[str, str, str]] = []

        def group(slot: re.Match[str]) -> str:
            name, kind = slot["name"], slot["kind"]
            words = (_KINDS | _KINDS_OF_TEXT)[kind]
            if not name:
                return f"(?:{words})"
            groups.append((f"g{len(groups)}", name, kind))
            return f"(?P<{groups[-1][0]}>{words})"

        return cls(re.compile(_SLOT.sub(group, text)), tuple(groups))


@cache
def _known_lines() -> tuple[_Line, ...]:
    """Made when they are first needed, for most kernels complain of nothing."""
    return tuple(
        _Line.of(line) for block in (_MEMORY, _LISTS, _OBJECTS, _WATCHDOGS) for line in block.strip("\n").split("\n")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """Things that the lines of a complaint name, by what they are; of several of one kind the first."""

    numbers: Mapping[str, int] = field(default_factory=dict)  # addresses, entries, counts
    decimal: frozenset[str] = frozenset()  # which of them are printed in decimal
    texts: Mapping[str, str] = field(default_factory=dict)  # not fit to be shown
    raw: tuple[int, ...] = ()  # words of the struct page that was dumped

    def get(self, *names: str) -> int | None:
        """The first of ``names`` that is there."""
        return next((self.numbers[name] for name in names if name in self.numbers), None)


def read_named(lines: Iterable[str]) -> Named:
    """What the lines of one complaint name, its first line included.

    >>> read_named(["BUG: Bad rss-counter state mm:00000000c3c7eecd type:MM_ANONPAGES val:7"]).get("value")
    7
    """
    numbers: dict[str, int] = {}
    texts: dict[str, str] = {}
    decimal: set[str] = set()
    raw: list[int] = []
    for line in lines:
        if (words := _RAW.match(line)) is not None:
            raw += [int(word, 16) for word in words[1].split()]
            continue
        found, known = next(
            ((found, known) for known in _known_lines() if (found := known.pattern.match(line)) is not None),
            (None, None),
        )
        if found is None or known is None:
            continue
        for group, name, kind in known.groups:
            text = found[group]
            if text is None or text.startswith("("):
                continue
            if kind in _KINDS_OF_TEXT or kind == "w":
                texts.setdefault(name, text)
                continue
            name = name + _HASHED * (kind == "h")
            decimal.update([name] * (kind == "d"))
            numbers.setdefault(name, int(text, 10 if kind == "d" else 16))
    return Named(numbers=numbers, decimal=frozenset(decimal), texts=texts, raw=tuple(raw[:_MOST_RAW]))
