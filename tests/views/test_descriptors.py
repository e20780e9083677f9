"""Descriptor tables, files in flight, files of io_uring, memory files and System V segments made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from handmade import LINUX, Machine, circular_list

from vmaforensics.views.descriptors.descriptors import Descriptors, read_descriptors
from vmaforensics.views.descriptors.keepers import Keeper
from vmaforensics.views.descriptors.kept_files import read_kept_files
from vmaforensics.views.descriptors.memory_files import read_memory_files
from vmaforensics.views.descriptors.sysv import read_segments
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.processes.tasks import Tasks

if TYPE_CHECKING:
    from vmaforensics.views.descriptors.keepers import KeptFiles

PAGE = 4096
SOCKET_OPS, RING_OPS = 0xFFFF_FFFF_8200_0000, 0xFFFF_FFFF_8200_1000
WILD = 0x4141_4141_4141_4141
NONE = np.zeros(0, np.uint64)

STRUCTS = LINUX | {
    "task_struct": LINUX["task_struct"] + " nsproxy:*",
    "files_struct": "count:u32 fdt:*",
    "fdtable": "max_fds:u32 fd:* close_on_exec:* open_fds:*",
    "file": "f_op:* f_mapping:* f_inode:* private_data:*",
    "socket": "state:u32 sk:*",
    "sock_common": "skc_family:u16",
    "sk_buff_head": "next:* prev:* qlen:u32",
    "sock": "__sk_common:sock_common sk_receive_queue:sk_buff_head",
    "unix_sock": "sk:sock peer:*",
    "sk_buff": "next:* prev:* sk:* cb:u8[48]",
    "unix_skb_parms": "pid:* fp:*",
    "scm_fp_list": "count:i16 max:i16 fp:*[4]",
    "io_fixed": "files:*",
    "io_ring_ctx": "nr_user_files:u32 file_table:io_fixed",
    "super_block": "s_list:list_head s_magic:u64 s_flags:u64 s_inodes:list_head",
    "hlist_head": "first:*",
    "inode": "i_mode:u16 i_nlink:u32 i_size:i64 i_sb:* i_ino:u64 i_mapping:* i_sb_list:list_head i_dentry:hlist_head",
    "xarray": "xa_lock:u32 xa_head:*",
    "address_space": "host:* i_pages:xarray i_mmap:rb_root_cached nrpages:u64",
    "xa_node": "shift:u8 offset:u8 slots:*[64]",
    "qstr": "hash:u64 name:*",
    "dentry": "d_name:qstr d_alias:hlist_node",
    "idr": "idr_rt:xarray",
    "ipc_ids": "in_use:i32 ipcs_idr:idr",
    "ipc_namespace": "ids:ipc_ids[3]",
    "nsproxy": "count:u32 ipc_ns:*",
    "kern_ipc_perm": "deleted:u8 id:i32 key:i32",
    "shmid_kernel": "shm_perm:kern_ipc_perm shm_file:* shm_nattch:u64 shm_segsz:u64 shm_cprid:* shm_lprid:*",
    "upid": "nr:i32 ns:*",
    "pid": "count:u32 numbers:upid",
}
NODES = STRUCTS | {
    "io_rsrc_data": "nr:u32 nodes:*",
    "io_file_table": "data:io_rsrc_data",
    "io_ring_ctx": "file_table:io_file_table",
    "io_rsrc_node": "refs:i32 file_ptr:u64",
}


def tasks_of(*tasks: int) -> Tasks:
    """Processes 10, 11, … at these addresses."""
    pids = range(10, 10 + len(tasks))
    return Tasks.of(task=tasks, pid=pids, tgid=pids, mm=[100 + pid for pid in pids], ok=[True] * len(tasks))


def problems_of(log: ProblemLog) -> list[tuple[Problem, int]]:
    rows = log.table()
    return list(zip(map(Problem, rows.problem.tolist()), rows.where.tolist(), strict=True))


# Descriptors ----------------------------------------------------------------------------------------


def table(machine: Machine, files: dict[int, int], *, most: int = 64, marks: int | None = None) -> int:
    """A files_struct with open files by number; ``marks`` is what the bitmap says in place of those numbers."""
    array, bitmap = machine.room(8 * most, PAGE), machine.room(max(most // 8, 8), PAGE)
    for number, file in files.items():
        machine.word(array + 8 * number, file)
    said = marks if marks is not None else sum(1 << number for number in files)
    machine.write(bitmap, said.to_bytes(max(most // 8, 8), "little"))
    machine.room(0, PAGE)
    fdt = machine.put("fdtable", {"max_fds": most, "fd": array, "open_fds": bitmap})
    return machine.put("files_struct", {"fdt": fdt})


def opened(machine: Machine, *files_structs: int) -> tuple[Descriptors, bool, list[tuple[Problem, int]]]:
    """The descriptors of a task for each ``files_struct``."""
    tasks = tasks_of(*(machine.put("task_struct", {"files": files}) for files in files_structs))
    log = ProblemLog()
    rows, whole = read_descriptors(machine.kernel(), tasks, log)
    return rows, whole, problems_of(log)


def test_descriptors_are_those_that_the_bitmap_marks() -> None:
    machine = Machine(STRUCTS)
    file = machine.put("file", {"f_inode": 0xFFFF_8880_0000_7000})
    stale = machine.put("file")
    files = table(machine, {0: file, 5: stale, 63: file, 64: file, 127: file}, most=128, marks=1 | 1 << 63 | 3 << 126)
    rows, whole, problems = opened(machine, files)
    assert not problems
    assert whole
    assert rows.fd.tolist() == [0, 63, 127]  # 126 is marked and still NULL: it is being opened
    assert set(rows.pid.tolist()) == {10}
    assert set(rows.inode.tolist()) == {0xFFFF_8880_0000_7000}
    array = int(rows.slot[0])
    assert rows.slot.tolist() == [array, array + 8 * 63, array + 8 * 127]


def test_a_shared_table_is_that_of_the_first_task() -> None:
    machine = Machine(STRUCTS)
    files = table(machine, {1: machine.put("file")})
    rows, _, _ = opened(machine, files, files, 0)
    assert list(zip(rows.pid.tolist(), rows.fd.tolist(), strict=True)) == [(10, 1)]


def test_without_open_files_there_are_no_rows() -> None:
    machine = Machine(STRUCTS)
    rows, whole, problems = opened(machine, table(machine, {}), 0)
    assert (len(rows), whole, problems) == (0, True, [])


def test_a_table_beyond_reason_is_cut_short() -> None:
    machine = Machine(STRUCTS)
    huge = machine.put("fdtable", {"max_fds": 0xFFFF_FFC0, "fd": machine.room(64), "open_fds": machine.room(64)})
    sound = table(machine, {2: machine.put("file")})
    rows, whole, problems = opened(machine, machine.put("files_struct", {"fdt": huge}), sound)
    assert (Problem.CUT_SHORT, huge) in problems
    assert not whole
    assert 2 in rows.fd.tolist()


def test_one_problem_tells_of_all_wild_pointers_of_a_table() -> None:
    machine = Machine(STRUCTS)
    rows, whole, problems = opened(machine, table(machine, {0: WILD, 1: WILD, 2: machine.put("file")}))
    assert rows.fd.tolist() == [2]
    assert whole
    assert [kind for kind, _ in problems] == [Problem.NON_CANONICAL]


def test_a_lost_bitmap_and_a_lost_file_are_said_to_be_lost() -> None:
    machine = Machine(STRUCTS)
    machine.room(0, PAGE)
    file = machine.put("file")
    files = table(machine, {0: file})
    machine.drop(file)
    rows, whole, problems = opened(machine, files)
    assert (rows.file.tolist(), rows.inode.tolist(), whole) == ([file], [0], False)
    assert problems == [(Problem.UNREADABLE, file)]
    lost = table(machine, {0: file})
    bitmap = machine.room(0, PAGE) - 2 * PAGE
    machine.drop(bitmap)
    rows, whole, problems = opened(machine, lost)
    assert (len(rows), whole) == (0, False)
    assert (Problem.UNREADABLE, bitmap) in problems


# Files in flight ------------------------------------------------------------------------------------


def kept(machine: Machine, *files: int) -> tuple[KeptFiles, bool, list[tuple[Problem, int]]]:
    """What sockets and rings among ``files`` keep, which are descriptors 3, 4, … of process 10."""
    machine.symbols |= {"socket_file_ops": SOCKET_OPS, "io_uring_fops": RING_OPS}
    numbers = range(3, 3 + len(files))
    log = ProblemLog()
    rows, whole = read_kept_files(machine.kernel(), Descriptors.of(file=files, fd=numbers, pid=[10] * len(files)), log)
    return rows, whole, problems_of(log)


def queue_of(machine: Machine, sock: int) -> int:
    return machine.at("sock", sock, "sk_receive_queue")


def new_sock(machine: Machine, *buffers: int, peer: int = 0, family: int = 1) -> int:
    """A unix socket with buffers in its queue."""
    sock = machine.put("unix_sock", {"sk.__sk_common.skc_family": family, "peer": peer})
    circular_list(machine, queue_of(machine, sock), *buffers)
    return sock


def socket_file(machine: Machine, sock: int) -> int:
    socket = machine.put("socket", {"sk": sock})
    return machine.put("file", {"f_op": SOCKET_OPS, "private_data": socket})


def buffer(machine: Machine, *files: int, sock: int = 0) -> int:
    """A socket buffer that passes ``files``, or names a socket."""
    address = machine.put("sk_buff", {"sk": sock})
    if files:
        passed = machine.put("scm_fp_list", {"count": len(files), "fp": [*files, WILD][:4]})
        at = machine.at("sk_buff", address, "cb") + machine.at("unix_skb_parms", 0, "fp")
        machine.word(at, passed)
    return address


def test_a_file_in_flight_is_reached_through_the_peer() -> None:
    machine = Machine(STRUCTS)
    passed = [machine.put("file", {"f_inode": 0xFFFF_8880_0000_7000 + at}) for at in range(2)]
    receiver = new_sock(machine, buffer(machine), buffer(machine, *passed))
    sender = new_sock(machine, peer=receiver)
    rows, whole, problems = kept(machine, socket_file(machine, sender))
    assert not problems
    assert whole
    assert rows.file.tolist() == passed
    assert rows.inode.tolist() == [0xFFFF_8880_0000_7000, 0xFFFF_8880_0000_7001]
    assert set(rows.by.tolist()) == {receiver}
    assert set(rows.keeper.tolist()) == {Keeper.QUEUE}
    assert set(zip(rows.pid.tolist(), rows.fd.tolist(), strict=True)) == {(10, 3)}


def test_sockets_in_flight_and_connections_not_yet_accepted_are_followed() -> None:
    machine = Machine(STRUCTS)
    inner = machine.put("file")
    passed = socket_file(machine, new_sock(machine, buffer(machine, inner)))
    waiting = new_sock(machine, buffer(machine, passed))
    listening = new_sock(machine, buffer(machine, sock=waiting))
    rows, whole, _ = kept(machine, socket_file(machine, listening))
    assert whole
    assert sorted(rows.file.tolist()) == sorted([passed, inner])
    assert set(rows.fd.tolist()) == {3}


def test_sockets_of_another_family_and_files_that_are_none_keep_nothing() -> None:
    machine = Machine(STRUCTS)
    other = new_sock(machine, buffer(machine, machine.put("file")), family=2)
    rows, whole, problems = kept(machine, socket_file(machine, other), machine.put("file"))
    assert (len(rows), whole, problems) == (0, True, [])


def test_two_peers_that_name_each_other_are_read_once() -> None:
    machine = Machine(STRUCTS)
    file = machine.put("file")
    first = new_sock(machine, buffer(machine, file))
    second = new_sock(machine, peer=first)
    machine.set("unix_sock", first, "peer", second)
    rows, whole, _ = kept(machine, socket_file(machine, first), socket_file(machine, second))
    assert (rows.file.tolist(), whole) == ([file], True)


@pytest.mark.parametrize(("target", "problem"), [("itself", Problem.CYCLE), ("wild", Problem.NON_CANONICAL)])
def test_a_queue_that_does_not_return_ends(target: str, problem: Problem) -> None:
    machine = Machine(STRUCTS)
    file = machine.put("file")
    only = buffer(machine, file)
    sock = new_sock(machine, only)
    machine.word(only, only if target == "itself" else WILD)
    rows, whole, problems = kept(machine, socket_file(machine, sock))
    assert (rows.file.tolist(), whole) == ([file], False)
    assert problems == [(problem, queue_of(machine, sock))]


def test_a_kernel_without_the_symbol_says_what_was_not_looked_for() -> None:
    machine = Machine(STRUCTS)
    kernel = machine.kernel()
    rows, whole = read_kept_files(kernel, Descriptors.zeros(0), ProblemLog())
    assert (len(rows), whole) == (0, True)
    assert any("socket_file_ops is unknown" in line for line in kernel.identity.problems)
    assert any("io_uring_fops is unknown" in line for line in kernel.identity.problems)


# io_uring -------------------------------------------------------------------------------------------


def words(machine: Machine, *values: int) -> int:
    """An array of words."""
    at = machine.room(8 * len(values))
    for place, value in enumerate(values):
        machine.word(at + 8 * place, value)
    return at


def ring_file(machine: Machine, context: int) -> int:
    return machine.put("file", {"f_op": RING_OPS, "private_data": context})


def test_registered_files_are_those_of_the_table_without_their_flags() -> None:
    machine = Machine(STRUCTS)
    files = [machine.put("file") for _ in range(2)]
    slots = words(machine, files[0] | 7, 0, files[1])
    context = machine.put("io_ring_ctx", {"nr_user_files": 3, "file_table.files": slots})
    rows, whole, problems = kept(machine, ring_file(machine, context), ring_file(machine, context))
    assert (whole, problems) == (True, [])
    assert rows.file.tolist() == files
    assert rows.slot.tolist() == [slots, slots + 16]
    assert set(rows.keeper.tolist()) == {Keeper.IO_URING}
    assert set(rows.by.tolist()) == {context}


def test_newer_kernels_have_a_node_for_each_registered_file() -> None:
    machine = Machine(NODES)
    file = machine.put("file")
    node = machine.put("io_rsrc_node", {"file_ptr": file | 3})
    context = machine.put("io_ring_ctx", {"file_table.data.nr": 2, "file_table.data.nodes": words(machine, 0, node)})
    rows, whole, _ = kept(machine, ring_file(machine, context))
    assert (rows.file.tolist(), whole) == ([file], True)
    assert rows.slot.tolist() == [machine.at("io_rsrc_node", node, "file_ptr")]


def test_a_ring_that_states_more_files_than_are_looked_at_is_cut_short() -> None:
    machine = Machine(STRUCTS)
    context = machine.put("io_ring_ctx", {"nr_user_files": 0xFFFF_FFFF, "file_table.files": words(machine, 0)})
    rows, whole, problems = kept(machine, ring_file(machine, context))
    assert (len(rows), whole, problems) == (0, False, [(Problem.CUT_SHORT, context)])


# Memory files ---------------------------------------------------------------------------------------


def memory_file(machine: Machine, super_block: int, name: bytes, *, pages: int = 1, nlink: int = 0) -> int:
    mapping = machine.put("address_space", {"nrpages": pages, "i_pages.xa_head": 0xFFFF_8880_0000_7000 if pages else 0})
    text = machine.room(64)
    machine.write(text, name + b"\0")
    dentry = machine.put("dentry", {"d_name.name": text})
    return machine.put(
        "inode",
        {
            "i_mapping": mapping,
            "i_sb": super_block,
            "i_nlink": nlink,
            "i_size": 123,
            "i_dentry.first": machine.at("dentry", dentry, "d_alias"),
        },
    )


def mounted(machine: Machine, magic: int, flags: int = 0) -> int:
    super_block = machine.put("super_block", {"s_magic": magic, "s_flags": flags})
    circular_list(machine, machine.at("super_block", super_block, "s_inodes"))
    return super_block


def hang(machine: Machine, super_block: int, *inodes: int) -> None:
    nodes = [machine.at("inode", inode, "i_sb_list") for inode in inodes]
    circular_list(machine, machine.at("super_block", super_block, "s_inodes"), *nodes)


def file_systems(machine: Machine, *supers: int) -> int:
    head = machine.symbols["super_blocks"] = machine.put("list_head")
    circular_list(machine, head, *(machine.at("super_block", superblock, "s_list") for superblock in supers))
    return head


TMPFS, EXT4, SECRETMEM, SB_KERNMOUNT = 0x01021994, 0xEF53, 0x5345434D, 1 << 22


def test_memory_files_are_the_inodes_with_content_of_file_systems_in_memory() -> None:
    machine = Machine(STRUCTS)
    own, disk = mounted(machine, TMPFS, SB_KERNMOUNT), mounted(machine, EXT4)
    mounted_by_user = mounted(machine, TMPFS)
    memfd, empty = memory_file(machine, own, b"memfd:x"), memory_file(machine, own, b"empty", pages=0)
    plain = memory_file(machine, mounted_by_user, b"plain", nlink=1)
    hang(machine, own, memfd, empty)
    hang(machine, disk, memory_file(machine, disk, b"on disk"))
    hang(machine, mounted_by_user, plain)
    file_systems(machine, own, disk, mounted_by_user)
    found = read_memory_files(machine.kernel(), NONE, ProblemLog())
    assert found.whole
    assert found.files.inode.tolist() == [memfd, plain]
    assert found.names == [b"memfd:x", b"plain"]
    assert found.files.internal.tolist() == [True, False]
    assert found.files.nlink.tolist() == [0, 1]
    assert found.files.size.tolist() == [123, 123]
    assert not found.files.mapped.any()


def test_an_open_file_of_such_a_file_system_counts_though_no_list_has_its_inode() -> None:
    machine = Machine(STRUCTS)
    own, disk = mounted(machine, SECRETMEM, SB_KERNMOUNT), mounted(machine, EXT4)
    secret, other = memory_file(machine, own, b"secretmem"), memory_file(machine, disk, b"on disk")
    file_systems(machine, own, disk)
    opened = np.array([secret, other, 0, secret], np.uint64)
    found = read_memory_files(machine.kernel(), opened, ProblemLog())
    assert (found.files.inode.tolist(), found.names) == ([secret], [b"secretmem"])
    assert found.files.internal.tolist() == [True]


def test_a_list_of_inodes_that_leads_back_into_itself_ends() -> None:
    machine = Machine(STRUCTS)
    own = mounted(machine, TMPFS, SB_KERNMOUNT)
    first, second = memory_file(machine, own, b"a"), memory_file(machine, own, b"b")
    hang(machine, own, first, second)
    node = machine.at("inode", second, "i_sb_list")
    machine.word(node, machine.at("inode", first, "i_sb_list"))
    file_systems(machine, own)
    log = ProblemLog()
    found = read_memory_files(machine.kernel(), NONE, log)
    assert found.names == [b"a", b"b"]
    assert not found.whole
    assert problems_of(log) == [(Problem.CYCLE, node)]


def test_without_the_list_of_file_systems_nothing_is_whole() -> None:
    found = read_memory_files(Machine(STRUCTS).kernel(), NONE, ProblemLog())
    assert (len(found.files), found.names, found.whole) == (0, [], False)


# System V -------------------------------------------------------------------------------------------


def segment(machine: Machine, number: int, **members: int) -> int:
    file = machine.put("file", {"f_mapping": 0xFFFF_8880_0000_7000 + number})
    pid = machine.put("pid", {"numbers.nr": 4000 + number})
    return machine.put(
        "shmid_kernel",
        {"shm_perm.id": number, "shm_perm.key": -2, "shm_file": file, "shm_cprid": pid, "shm_nattch": 3, **members},
    )


def namespace(machine: Machine, head: int) -> int:
    ids = machine.at("ipc_namespace", machine.put("ipc_namespace"), "ids")
    third = ids + 2 * 24  # IPC_SHM_IDS
    machine.word(machine.at("ipc_ids", third, "ipcs_idr.idr_rt.xa_head"), head)
    return ids


def segments_in(machine: Machine, *spaces: int) -> tuple[list[int], list[int], list[int], list[int], bool]:
    """(segments, ids, mappings, creators, whole) of tasks in these namespaces."""
    proxies = [machine.put("nsproxy", {"ipc_ns": space}) for space in spaces]
    tasks = tasks_of(*(machine.put("task_struct", {"nsproxy": proxy}) for proxy in proxies))
    rows, whole = read_segments(machine.kernel(), tasks, ProblemLog())
    return rows.segment.tolist(), rows.id.tolist(), rows.mapping.tolist(), rows.creator_pid.tolist(), whole


def test_segments_are_those_of_every_namespace_once() -> None:
    machine = Machine(STRUCTS)
    alone, first, second = (segment(machine, number) for number in (0, 1, 2))
    node = machine.put("xa_node", {"slots": [first, 0, second]})
    spaces = namespace(machine, alone), namespace(machine, node | 2)
    segments, ids, mappings, creators, whole = segments_in(machine, *spaces, spaces[0])
    assert segments == [alone, first, second]
    assert ids == [0, 1, 2]
    assert mappings == [0xFFFF_8880_0000_7000 + number for number in ids]
    assert creators == [4000, 4001, 4002]
    assert whole


def test_a_namespace_without_segments_has_none() -> None:
    machine = Machine(STRUCTS)
    assert segments_in(machine, namespace(machine, 0)) == ([], [], [], [], True)


def test_an_index_that_is_not_in_the_dump_is_not_whole() -> None:
    machine = Machine(STRUCTS)
    machine.room(0, PAGE)
    node = machine.put("xa_node", {"slots": [segment(machine, 1)]})
    machine.room(0, PAGE)
    space = namespace(machine, node | 2)
    machine.drop(node)
    assert segments_in(machine, space) == ([], [], [], [], False)


def test_keys_are_signed_and_attach_counts_lead_to_their_word() -> None:
    machine = Machine(STRUCTS)
    address = segment(machine, 9)
    task = machine.put("task_struct", {"nsproxy": machine.put("nsproxy", {"ipc_ns": namespace(machine, address)})})
    rows, _ = read_segments(machine.kernel(), tasks_of(task), ProblemLog())
    assert (rows.key.tolist(), rows.nattch.tolist()) == ([-2], [3])
    assert rows.nattch_at.tolist() == [machine.at("shmid_kernel", address, "shm_nattch")]
    assert np.all(rows.last_pid == 0)  # shm_lprid is NULL
