"""From a complaint to the word: each way on a memory made by hand in which just that word is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from checks.handmade_views import Process, views_of
from handmade import BASE, Machine

from vmaforensics.crash.trail.counters import follow_map_count, follow_pgtables, follow_rss
from vmaforensics.crash.trail.entries import follow_entry
from vmaforensics.crash.trail.follow import concern_memory
from vmaforensics.crash.trail.lists import follow_list
from vmaforensics.crash.trail.pointers import follow_pointer
from vmaforensics.crash.trail.word import BrokenWord, Sure, flipped
from vmaforensics.views.slab.caches import Caches, ObjectKind
from vmaforensics.views.slab.objects import SlabView, State
from vmaforensics.views.slab.slab_pages import SlabLayout, Slabs

from ..texts import complaints_of, log_of
from .stage import STRUCTS, Stage, complaint

OOPS = """\
{title}
CPU: 1 PID: 252 Comm: cat Not tainted 6.1.0-56-amd64 #1  Debian 6.1.192-2
RIP: 0010:unlink_file_vma+0x12/0x60
RSP: 0018:ffffd13d806efcb8 EFLAGS: 00000286
{registers}
Call Trace:
 free_pgtables+0x99/0x150
 exit_mmap+0x132/0x310
---[ end trace 0000000000000000 ]---"""


def word(words: list[BrokenWord]) -> BrokenWord:
    """The only one."""
    (found,) = words
    return found


def test_bits_and_bytes_that_differ_are_told() -> None:
    assert flipped(0xFFFFCDFFDF97AAB0, 0xFFFF8DFFDF97AAB0) == "bit 46 is set"
    assert flipped(0xFFFFD461DF37B7B8, 0xFFFF8E61DF37B7B8) == "byte 5 differs"
    assert flipped(0x1234, 0x4321) == flipped(7, 7) == ""


# Lists ------------------------------------------------------------------------------------------------


def _list() -> tuple[Machine, list[int]]:
    """Three tasks in a ring of which the middle one was taken out by its neighbours' words alone."""
    machine = Machine(STRUCTS)
    tasks = [machine.put("task_struct") for _ in range(3)]
    heads = [machine.at("task_struct", task, "tasks") for task in tasks]
    for here, after in ((0, 1), (1, 2), (2, 0)):
        machine.word(heads[here], heads[after])
        machine.word(heads[after] + 8, heads[here])
    machine.word(heads[0], heads[2])
    machine.word(heads[2] + 8, heads[0])
    return machine, tasks


def test_both_words_that_lead_past_an_entry_are_named() -> None:
    machine, tasks = _list()
    offset = machine.at("task_struct", 0, "tasks")
    first, entry, last = (task + offset for task in tasks)
    stage = Stage(machine, [(task, offset + 16, "task_struct") for task in tasks])
    for text in (
        f"list_del corruption. prev->next should be {entry:016x}, but was {last:016x}. (prev={first:016x})",
        f"list_del corruption. prev->next should be {entry:016x}, but was {last:016x}",  # 5.10
    ):
        found = follow_list(stage, complaint(text))
        assert [item.address for item in found.words] == [first, last + 8]
        assert [(item.found, item.expected) for item in found.words] == [
            (hex(last), hex(entry)),
            (hex(first), hex(entry)),
        ]
        assert all(item.sure is Sure.CERTAIN for item in found.words)
        assert "unlinked by writes" in found.notes[0]


def test_a_word_of_poison_in_an_entry_that_is_on_its_list_is_what_is_broken() -> None:
    machine, tasks = _list()
    entry = tasks[1] + machine.at("task_struct", 0, "tasks")
    machine.word(entry, 0xDEAD000000000100)
    machine.word(entry + 8, tasks[0] + machine.at("task_struct", 0, "tasks"))
    machine.word(tasks[0] + machine.at("task_struct", 0, "tasks"), entry)
    text = f"list_del corruption, {entry:016x}->next is LIST_POISON1 (dead000000000100)"
    found = word(follow_list(Stage(machine), complaint(text)).words)
    assert (found.address, found.sure) == (entry, Sure.CERTAIN)  # the entry before it still leads to it


def test_what_list_del_left_is_not_what_is_broken() -> None:
    machine, tasks = _list()
    entry = tasks[1] + machine.at("task_struct", 0, "tasks")
    machine.word(entry, 0xDEAD000000000100)
    machine.word(entry + 8, 0xDEAD000000000122)
    text = f"list_del corruption, {entry:016x}->next is LIST_POISON1 (dead000000000100)"
    found = word(follow_list(Stage(machine), complaint(text)).words)
    assert (found.address, found.sure) == (entry, Sure.POSSIBLE)
    assert "list_del" in found.why[0]


# Page tables --------------------------------------------------------------------------------------------


def test_an_entry_is_found_through_the_one_above_it() -> None:
    machine = Machine(STRUCTS)
    table = machine.room(4096, 4096)
    address, entry = 0x7F4B2C47A000, 0x8000002007F28867
    where = table + (address >> 12 & 511) * 8
    machine.word(where, entry)
    text = (
        f"BUG: Bad page map in process cat  pte:{entry:016x} pmd:{table - BASE | 0x67:08x}\n"
        f"addr:{address:016x} vm_flags:08100073 anon_vma:ffff8d239fb85af8 mapping:0000000000000000 index:7f4b2c47a"
    )
    found = follow_entry(Stage(machine), complaint(text))
    named = word(found.words)
    assert (named.physical, named.user_address, named.found) == (where - BASE, address, hex(entry))
    assert named.why == ("it leads to page frame 0x2007f28, where no RAM is", "the table still holds it")
    machine.word(where, 0)
    assert "stands 0x0 by now" in follow_entry(Stage(machine), complaint(text)).notes[0]


def test_an_entry_without_the_one_above_it_has_no_place() -> None:
    text = (
        "BUG: Bad page map in process cat  pte:8000002007f28867\n"
        "addr:00007f4b2c47a000 vm_flags:1 anon_vma:0 mapping:0 index:1"
    )
    found = follow_entry(Stage(Machine(STRUCTS)), complaint(text))
    assert word(found.words).physical is None
    assert "not in the log" in found.notes[-1]


# Counters -----------------------------------------------------------------------------------------------

_MMS = STRUCTS | {
    "mm_rss_stat": "count:u64[4]",
    "mm_struct": STRUCTS["mm_struct"] + " rss_stat:mm_rss_stat",
}
_KINDS = {"MM_FILEPAGES": 0, "MM_ANONPAGES": 1, "MM_SWAPENTS": 2, "MM_SHMEMPAGES": 3}


def _freed(values: list[int]) -> tuple[Machine, list[int], Stage]:
    """A slab of freed mm_structs with these MM_ANONPAGES, and one that is in use with 7."""
    machine = Machine(_MMS, _KINDS, pages=64)
    size = 2048
    base = machine.room(size * (len(values) + 1), 4096)
    mms = [base + size * place for place in range(len(values) + 1)]
    for mm, value in zip(mms, [*values, 7], strict=True):
        machine.word(machine.at("mm_struct", mm, "rss_stat.count") + 8, value)
        machine.word(machine.at("mm_struct", mm, "pgtables_bytes.counter"), 4096 * value)
    caches = Caches.of(kind=[ObjectKind.MM], cache=[1], size=[size], users=[1])
    slabs = Slabs.of(base=[base], objects=[len(mms)], page=[1])
    state = np.array([State.FREE] * len(values) + [State.ALLOCATED], np.uint8)
    views = views_of()
    views.slab = SlabView(layout=SlabLayout(caches=caches, slabs=slabs), state=state)
    return machine, mms, Stage(machine, views=views)


def test_a_counter_is_found_in_the_freed_mm_that_still_holds_it() -> None:
    machine, mms, stage = _freed([0, 7, 0])
    text = "BUG: Bad rss-counter state mm:00000000c3c7eecd type:MM_ANONPAGES val:7"
    found = follow_rss(stage, complaint(text))
    named = word(found.words)
    assert named.address == machine.at("mm_struct", mms[1], "rss_stat.count") + 8
    assert (named.found, named.expected, named.sure) == ("7", "0", Sure.LIKELY)
    assert "hashed" in found.notes[0]


def test_a_counter_of_an_mm_that_was_freed_in_use_follows_from_its_count_of_users() -> None:
    machine, mms, stage = _freed([0, 7])
    stage.tasks = views_of(Process(pid=9, comm=b"cat", vmas=["1000-2000 r-xp"])).tasks
    stage.tasks.mm[:] = mms[1]
    found = word(
        follow_rss(stage, complaint("BUG: Bad rss-counter state mm:00000000c3c7eecd type:MM_ANONPAGES val:7")).words
    )
    assert found.address == machine.at("mm_struct", mms[1], "mm_users")
    assert "pid 9 still has it" in found.why[0]


def test_two_counters_that_fit_are_both_possible_and_none_is_said_to_be_gone() -> None:
    text = "BUG: Bad rss-counter state mm:00000000c3c7eecd type:MM_ANONPAGES val:7"
    found = follow_rss(_freed([7, 7])[2], complaint(text)).words
    assert [item.sure for item in found] == [Sure.POSSIBLE] * 2
    gone = follow_rss(_freed([0, 1])[2], complaint(text))
    assert gone.words == []
    assert "handed out again" in gone.notes[-1]


def test_page_tables_that_were_not_counted_are_found_in_the_same_way() -> None:
    machine, mms, stage = _freed([0, 2])
    found = word(follow_pgtables(stage, complaint("BUG: non-zero pgtables_bytes on freeing mm: 8192")).words)
    assert found.address == machine.at("mm_struct", mms[1], "pgtables_bytes.counter")


def test_a_count_of_vmas_is_held_against_the_index() -> None:
    machine = Machine(STRUCTS)
    vmas = [
        machine.put("vm_area_struct", {"vm_start": at, "vm_end": at + 0x1000, "vm_mm": 0}) for at in (0x1000, 0x2000)
    ]
    leaf = machine.put("maple_node")
    for path, values in (("pivot", [0xFFF, 0x1FFF, 0x2FFF]), ("slot", [0, *vmas, 0])):
        machine.set("maple_range_64", leaf, path, values)
    machine.set("maple_range_64", leaf, "meta.end", 3)
    mm = machine.put("mm_struct", {"map_count": 3, "mm_mt.ma_root": leaf | 1 << 3 | 4 | 2})
    machine.word(leaf, machine.at("mm_struct", mm, "mm_mt") | 1)
    stage = Stage(machine)
    stage.space_of[252] = mm
    text = OOPS.format(title="kernel BUG at mm/mmap.c:3320!", registers="RAX: 0000000000000000").replace(
        "unlink_file_vma", "exit_mmap"
    )
    found = word(follow_map_count(stage, complaint(text)).words)
    assert found.address == machine.at("mm_struct", mm, "map_count")
    assert (found.found, found.expected, found.sure) == ("3", "2", Sure.CERTAIN)


# Pointers -----------------------------------------------------------------------------------------------


def test_a_pointer_that_lost_a_bit_is_found_in_what_a_register_leads_to() -> None:
    machine = Machine(STRUCTS)
    file = machine.put("file")
    wrong = file ^ 1 << 62
    vma = machine.put("vm_area_struct", {"vm_file": wrong})
    size = machine.kernel().sizeof("vm_area_struct")
    stage = Stage(machine, [(vma, size, "vm_area_struct"), (file, 64, "file")])
    text = OOPS.format(
        title=f"general protection fault, probably for non-canonical address {wrong + 0xD8:#x}: 0000 [#1] SMP",
        registers=f"RAX: {wrong:016x} RBX: {vma:016x} RCX: 0000000000000001",
    )
    found = word(follow_pointer(stage, complaint(text)).words)
    assert found.address == machine.at("vm_area_struct", vma, "vm_file")
    assert (found.found, found.expected, found.sure) == (hex(wrong), hex(file), Sure.CERTAIN)
    assert "RBX leads to" in found.why[0]


def test_a_pointer_that_is_null_is_told_by_the_member_that_was_wanted() -> None:
    structs = STRUCTS | {"file": "f_mode:u32 f_count:u64"}
    machine = Machine(structs)
    # Types made by hand do not say what a pointer leads to: BTF does.
    fields = machine.types.struct("vm_area_struct")
    assert fields is not None
    fields.fields["vm_mm"] = replace(fields.fields["vm_mm"], struct="mm_struct")
    fields.fields["vm_file"] = replace(fields.fields["vm_file"], struct="file")
    vma = machine.put("vm_area_struct")
    wanted = machine.at("mm_struct", 0, "start_stack")
    stage = Stage(machine, [(vma, machine.kernel().sizeof("vm_area_struct"), "vm_area_struct")])
    text = OOPS.format(
        title=f"BUG: kernel NULL pointer dereference, address: {wanted:016x}",
        registers=f"RAX: 0000000000000000 RDX: {vma:016x}",
    )
    found = word(follow_pointer(stage, complaint(text)).words)
    assert found.address == machine.at("vm_area_struct", vma, "vm_mm")
    assert (found.found, found.sure) == ("0x0", Sure.LIKELY)
    assert "NULL->start_stack" in found.why[0]


def test_registers_that_lead_nowhere_give_nothing() -> None:
    text = OOPS.format(
        title="BUG: unable to handle page fault for address: ffffb0d680a1fd20", registers="RAX: 0000000000000000"
    )
    assert follow_pointer(Stage(Machine(STRUCTS)), complaint(text)).words == []


# Who may speak ------------------------------------------------------------------------------------------


def test_what_a_program_wrote_leads_to_nothing() -> None:
    forged = log_of(
        ("BUG: Bad rss-counter state mm:00000000c3c7eecd type:MM_ANONPAGES val:7", {"caller": 5, "facility": 1})
    )
    assert not concern_memory(complaints_of(forged).kept)


def test_a_complaint_that_is_no_matter_of_memory_maps_asks_no_records() -> None:
    assert not concern_memory([complaint("watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [cat:812]")])
    assert concern_memory([complaint("BUG: non-zero pgtables_bytes on freeing mm: 8192")])


def test_processes_are_named_by_the_mm_they_leave() -> None:
    views = views_of(Process(pid=9, comm=b"cat", vmas=["1000-2000 r-xp"]))
    views.tasks.mm[0], views.tasks.active_mm[0] = 0, 0x1234
    views.tasks.flags[0] = 0x4  # PF_EXITING
    stage = Stage(Machine(STRUCTS), views=views)
    assert stage.who(0x1234) == "pid 9 (cat)"
    assert super(Stage, stage).mm_of(9) == 0x1234
