"""What lines of complaints name; the lines are the kernel's own formats with values put in."""

from __future__ import annotations

import pytest

from vmaforensics.crash.trail.named import read_named


@pytest.mark.parametrize(
    ("line", "numbers", "texts"),
    [
        # kernel/fork.c: check_mm, 5.10 to 6.12 and 7.3
        (
            "BUG: Bad rss-counter state mm:00000000c3c7eecd type:MM_ANONPAGES val:-3",
            {"mm_hashed": 0xC3C7EECD, "value": -3},
            {"counter": "MM_ANONPAGES"},
        ),
        (
            "BUG: Bad rss-counter state mm:00000000fc23d52f type:MM_FILEPAGES val:7 Comm:a Pid:2 b Pid:1",
            {"mm_hashed": 0xFC23D52F, "value": 7, "dropped by pid": 1},
            {"counter": "MM_FILEPAGES", "dropped by": "a Pid:2 b"},
        ),
        ("BUG: non-zero pgtables_bytes on freeing mm: -4096", {"pgtables_bytes": -4096}, {}),
        # mm/memory.c: print_bad_pte; a command name may say anything
        (
            "BUG: Bad page map in process x  pte:1 pmd:2  pte:8000002007f28867 pmd:1f86b067",
            {"pte": 0x8000002007F28867, "pmd": 0x1F86B067},
            {},
        ),
        # mm/memory.c of 7.3: print_bad_page_map
        ("BUG: Bad page map in process cat  pmd:800000201ff168e7", {"entry": 0x800000201FF168E7}, {"level": "pmd"}),
        (
            "pgd:0000000008942067 p4d:0000000008942067 pud:0000000008951067 pmd:0000000008948067",
            {"pgd": 0x8942067, "p4d": 0x8942067, "pud": 0x8951067, "pmd": 0x8948067},
            {},
        ),
        (
            "addr:00007f4b2c47a000 vm_flags:08100073 anon_vma:ffff8d239fb85af8 mapping:0 index:7f4b2c47a",
            {
                "address": 0x7F4B2C47A000,
                "vm_flags": 0x8100073,
                "anon_vma": 0xFFFF8D239FB85AF8,
                "mapping": 0,
                "index": 0x7F4B2C47A,
            },
            {},
        ),
        (
            "file:libc.so.6 fault:filemap_fault mmap:ext4_file_mmap read_folio:ext4_read_folio",
            {},
            {"file": "libc.so.6", "fault handler": "filemap_fault", "mmap": "ext4_file_mmap"},
        ),
        # mm/page_alloc.c: bad_page; mm/debug.c: __dump_page of 5.10, 6.12
        ("BUG: Bad page state in process cat  pfn:1ee78", {"pfn": 0x1EE78}, {}),
        (
            "page:00000000f2a1b3c4 refcount:0 mapcount:-1 mapping:00000000deadbeef index:0x0 pfn:0x12345",
            {
                "page": 0xF2A1B3C4,
                "refcount": 0,
                "mapcount": -1,
                "mapping_hashed": 0xDEADBEEF,
                "index": 0,
                "pfn": 0x12345,
            },
            {},
        ),
        ("page dumped because: nonzero mapcount", {}, {"because": "nonzero mapcount"}),
        ('aops:ext4_da_aops ino:2f dentry name:"a "b""', {"inode": 0x2F}, {"aops": "ext4_da_aops", "dentry": "a "}),
        # mm/debug.c: dump_vma
        (
            "vma ffff8a0e5f300720 start 000055fb8d49f000 end 000055fb8d4a2000 mm ffff8a0e5f764480",
            {
                "vma": 0xFFFF8A0E5F300720,
                "start": 0x55FB8D49F000,
                "end": 0x55FB8D4A2000,
                "mm": 0xFFFF8A0E5F764480,
            },
            {},
        ),
        # lib/list_debug.c of 5.10 and of 6.1
        (
            "list_del corruption. prev->next should be ffff8b001ebb8890, but was dead000000000122",
            {"entry": 0xFFFF8B001EBB8890, "was": 0xDEAD000000000122},
            {},
        ),
        (
            "list_add corruption. next->prev should be prev (ffff8b001ebb8890), but was 0. (next=ffff8b001eb74a90).",
            {"prev": 0xFFFF8B001EBB8890, "was": 0, "next": 0xFFFF8B001EB74A90},
            {},
        ),
        (
            "list_del corruption, ffff8b001ebb8890->next is LIST_POISON1 (dead000000000100)",
            {"entry": 0xFFFF8B001EBB8890},
            {"member": "next", "poison": "LIST_POISON1"},
        ),
        # arch/x86/mm/fault.c, traps.c
        (
            "BUG: kernel NULL pointer dereference, address: 00000000000003b8",
            {"fault address": 0x3B8},
            {},
        ),
        (
            "general protection fault, probably for non-canonical address 0xbfff8a0e5fbe72d8: 0000 [#1] PREEMPT SMP",
            {"bad pointer": 0xBFFF8A0E5FBE72D8},
            {},
        ),
        ("PGD 1004067 P4D 1004067 PUD 0 ", {"pgd": 0x1004067, "p4d": 0x1004067, "pud": 0}, {}),
        # mm/slab_common.c: kmem_dump_obj; mm/slub.c: slab_bug
        (
            " slab task_struct start ffff8b85c80fc680 pointer offset 2664 size 8968",
            {"object": 0xFFFF8B85C80FC680, "offset": 2664, "size": 8968},
            {"cache": "task_struct"},
        ),
        (
            "BUG kmalloc-64 (Tainted: G    B     ): Freepointer corrupt",
            {},
            {"cache": "kmalloc-64", "because": "Freepointer corrupt"},
        ),
        # mm/kasan/report.c; lib/bug.c; include/linux/maple_tree.h
        ("Read of size 8 at addr ffff8b001ebb8890 by task cat/812", {"size": 8, "address": 0xFFFF8B001EBB8890}, {}),
        ("kernel BUG at mm/mmap.c:3320!", {}, {"source": "mm/mmap.c:3320"}),
        ("BUG at mas_validate_gaps:7177 (1)", {}, {"source": "mas_validate_gaps:7177"}),
        # kernel/watchdog.c, kernel/hung_task.c, kernel/rcu/tree_stall.h, mm/oom_kill.c
        ("watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [cat:812]", {"cpu": 1, "seconds": 26}, {}),
        ("watchdog: Watchdog detected hard LOCKUP on cpu 3", {"cpu": 3}, {}),
        ("INFO: task a:1 b:812 blocked for more than 120 seconds.", {"pid": 812, "seconds": 120}, {}),
        (
            "INFO: task cat:812 is blocked on a mutex likely owned by task dog:813.",
            {"owner": 813},
            {"lock": "mutex"},
        ),
        ("rcu: \t1-....: (5250 ticks this GP) idle=1234/1/0x4 softirq=1/1 fqs=2", {"cpu": 1, "ticks": 5250}, {}),
        (
            "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,task_memcg=/,task=a,pid=1,pid=812,uid=0",
            {"victim": 812, "uid": 0},
            {"constraint": "CONSTRAINT_NONE"},
        ),
        (
            "Out of memory: Killed process 812 (cat) total-vm:1024kB, anon-rss:512kB, file-rss:0kB, shmem-rss:0kB",
            {"victim": 812, "total_vm KiB": 1024, "anon KiB": 512},
            {},
        ),
        ("Linux version 6.1", {}, {}),
    ],
)  # fmt: skip
def test_a_line_names_what_its_format_says(line: str, numbers: dict[str, int], texts: dict[str, str]) -> None:
    named = read_named([line])
    assert (dict(named.numbers), dict(named.texts)) == (numbers, texts)


def test_the_first_of_a_kind_counts_and_raw_words_are_kept_in_order() -> None:
    named = read_named(
        [
            "BUG: Bad page state in process cat  pfn:1ee78",
            "page: refcount:0 mapcount:1 mapping:0000000000000000 index:0x7f18ec207 pfn:0x99999",
            "raw: 000fffffc002080c dead000000000100 dead000000000122 0000000000000000",
            "raw: 00000007f18ec207 0000000000000000 0000000000000000 0000000000000000",
        ]
    )
    assert named.get("pfn") == 0x1EE78
    assert named.get("nothing", "mapcount") == 1
    assert named.raw[:2] == (0xFFFFFC002080C, 0xDEAD000000000100)
    assert len(named.raw) == 8


def test_a_number_of_more_digits_than_64_bits_have_is_none() -> None:
    lines = [
        f"BUG: Bad rss-counter state mm:00000000c3c7eecd type:MM_ANONPAGES val:{'9' * 5000}",
        f"BUG: Bad page state in process cat  pfn:{'f' * 17}",
    ]
    assert dict(read_named(lines).numbers) == {}


def test_a_million_words_are_read_within_bounds() -> None:
    named = read_named(["raw: " + " ".join(["0" * 16] * 8)] * 100_000 + ["page dumped because: " + "x" * 100_000])
    assert len(named.raw) <= 32
    assert len(named.texts.get("because", "")) <= 255
