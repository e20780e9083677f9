"""Lines of the kernel's complaints, in the words of its sources, and logs that hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.known import DEFAULT
from vmaforensics.crash.complaints import Complaints, read_complaints
from vmaforensics.views.log.records import Log, LogRecords

if TYPE_CHECKING:
    from collections.abc import Sequence

NULL_POINTER = """\
BUG: kernel NULL pointer dereference, address: 0000000000000040
#PF: supervisor read access in kernel mode
#PF: error_code(0x0000) - not-present page
PGD 0 P4D 0
Oops: 0000 [#1] PREEMPT SMP NOPTI
CPU: 3 PID: 812 Comm: cat Tainted: G      D W         6.1.0-56-amd64 #1  Debian 6.1.192-2
Hardware name: QEMU Standard PC (Q35 + ICH9, 2009), BIOS 1.16.2-debian-1.16.2-1 04/01/2014
RIP: 0010:mas_walk+0x16/0x1d0
Code: 48 89 e5 41 57 41 56 <48> 8b 47 40
RSP: 0018:ffffb0d680a1fd20 EFLAGS: 00010246
RAX: 0000000000000000 RBX: ffff8b4bc1a5d000 RCX: 0000000000000000
RDX: 00007f1234567000 RSI: 0000000000000000 RDI: ffffb0d680a1fd68
FS:  00007f1234500740(0000) GS:ffff8b4bfdc00000(0000) knlGS:0000000000000000
CS:  0010 DS: 0000 ES: 0000 CR0: 0000000080050033
CR2: 0000000000000040 CR3: 0000000101a4c000 CR4: 0000000000750ee0
Call Trace:
 <TASK>
 ? __die_body.cold+0x1a/0x1f
 ? page_fault_oops+0xd2/0x2b0
 ? asm_exc_page_fault+0x22/0x30
 mt_find+0xd9/0x1b0
 find_vma+0x3c/0x60
 do_user_addr_fault+0x1b2/0x570
 fuse_file_write+0x10/0x20 [fuse]
 exc_page_fault+0x70/0x170
 asm_exc_page_fault+0x22/0x30
RIP: 0033:0x7f1234567abc
RAX: ffffffffffffffda RBX: 0000000000000004 RCX: 0000000000439f60
 </TASK>
Modules linked in: fuse overlay
---[ end trace 0000000000000000 ]---"""
# 6.12 and later: UID in the header, the exception's name in the Oops line.
LIST_CORRUPTION = """\
list_del corruption. next->prev should be ffff8b4bc1a5d010, but was dead000000000122. (next=ffff8b4bc1a5e010)
------------[ cut here ]------------
kernel BUG at lib/list_debug.c:62!
Oops: invalid opcode: 0000 [#1] PREEMPT SMP NOPTI
CPU: 0 UID: 1000 PID: 77 Comm: a b: c Not tainted 6.12.118+deb13-amd64 #1  Debian 6.12.118-1
RIP: 0010:__list_del_entry_valid_or_report.cold+0x5c/0x62
Call Trace:
 <TASK>
 unlink_anon_vmas.isra.0+0x62/0x1a0
 free_pgtables.constprop.0+0x62/0x90
 exit_mmap+0x100/0x300
 </TASK>
---[ end trace 0000000000000000 ]---"""
FATAL_PANIC = """\
Kernel panic - not syncing: Fatal exception
Kernel Offset: 0x1c000000 from 0xffffffff81000000 (relocation range: 0xffffffff80000000-0xffffffffbfffffff)
---[ end Kernel panic - not syncing: Fatal exception ]---"""
HUNG_TASK = """\
INFO: task kworker/u8:2:513 blocked for more than 120 seconds.
      Not tainted 6.1.0-56-amd64 #1 Debian 6.1.192-2
"echo 0 > /proc/sys/kernel/hung_task_timeout_secs" disables this message.
task:kworker/u8:2   state:D stack:0     pid:513   ppid:2      flags:0x00004000
Call Trace:
 <TASK>
 __schedule+0x34d/0x9e0
 schedule+0x5a/0xd0
 rwsem_down_write_slowpath+0x311/0x6d0
 </TASK>"""

SOFT_LOCKUP = """\
watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [awk-spins:812]
Modules linked in: overlay
CPU: 1 PID: 812 Comm: awk-spins Not tainted 6.1.0-56-amd64 #1  Debian 6.1.192-2
RIP: 0010:page_vma_mapped_walk+0x1f2/0x9a0
RSP: 0018:ffffb0d680a1fd20 EFLAGS: 00010246
RAX: 0000000000000000 RBX: ffff8b4bc1a5d000 RCX: 0000000000000000
Call Trace:
 <TASK>
 try_to_unmap_one+0x100/0x800
 rmap_walk_anon+0x10/0x20
 </TASK>
Kernel panic - not syncing: softlockup: hung tasks
CPU: 1 PID: 812 Comm: awk-spins Tainted: G             L     6.1.0-56-amd64 #1  Debian 6.1.192-2
Call Trace:
 <IRQ>
 dump_stack_lvl+0x44/0x5c
 panic+0x118/0x2f4
 watchdog_timer_fn.cold+0x3d/0x3d
 asm_sysvec_apic_timer_interrupt+0x16/0x20
 </IRQ>
 <TASK>
RIP: 0010:page_vma_mapped_walk+0x1f2/0x9a0
Code: 48 89 e5 41 57 41 56 <48> 8b 47 40
RSP: 0018:ffffb0d680a1fd20 EFLAGS: 00010246
RAX: 0000000000000000 RBX: ffff8b4bc1a5d000 RCX: 0000000000000000
 ? asm_sysvec_apic_timer_interrupt+0x16/0x20
 try_to_unmap_one+0x100/0x800
 rmap_walk_anon+0x10/0x20
 entry_SYSCALL_64_after_hwframe+0x67/0xd1
RIP: 0033:0x439f60
RAX: ffffffffffffffda RBX: 0000000000000004 RCX: 0000000000439f60
 </TASK>
Kernel Offset: 0x1c000000 from 0xffffffff81000000"""


def log_of(*parts: tuple[str, dict[str, int]]) -> Log:
    """A log whose records are the lines of each part, with the columns given: facility, caller, time."""
    rows: list[tuple[bytes, dict[str, int]]] = []
    for text, columns in parts:
        rows += ((line.encode("utf-8", "surrogateescape"), columns) for line in text.split("\n"))
    return _log(rows)


def complaints_of(log: Log) -> Complaints:
    """The complaints of a log, on the CPU that there is."""
    return read_complaints(log, DEFAULT.printed_registers)


def _log(rows: Sequence[tuple[bytes, dict[str, int]]]) -> Log:
    sizes = np.array([len(text) for text, _ in rows], np.int64)
    records = LogRecords.zeros(len(rows))
    records.seq[:] = np.arange(len(rows))
    records.size[:], records.begin[:] = sizes, np.cumsum(sizes) - sizes
    for row, (_, columns) in enumerate(rows):
        records.facility[row], records.caller[row] = columns.get("facility", 0), columns.get("caller", 0)
        records.time[row] = columns.get("time", 0)
    return Log(records=records, data=b"".join(text for text, _ in rows), source="made by hand")
