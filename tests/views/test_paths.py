"""Files and their paths, on dentries and mounts made by hand (d_path and prepend_path, fs/d_path.c)."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import LINUX, Machine

from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.processes.tasks import Tasks
from vmaforensics.views.vmas.files import FileTable, read_files
from vmaforensics.views.vmas.paths import Place, reader_root

STRUCTS = LINUX | {
    "qstr": "len:u32 hash:u32 name:*",
    "dentry": "d_hash:hlist_node d_parent:* d_name:qstr d_inode:* d_op:* d_sb:*",
    "vfsmount": "mnt_root:* mnt_sb:* mnt_flags:i32",
    "mount": "mnt_hash:hlist_node mnt_parent:* mnt_mountpoint:* mnt:vfsmount",
    "dentry_operations": "d_revalidate:* d_dname:*",
    "fs_struct": "users:i32 root:path pwd:path",
    "task_struct": LINUX["task_struct"] + " fs:*",
}
TMPFS, KERNEL_MOUNT = 0x01021994, 1 << 22
REGULAR, SOCKET = 0o100644, 0o140777


class Disk:
    """A mount namespace with a root file system, and files in it."""

    def __init__(self, structs: dict[str, str] = STRUCTS) -> None:
        self.machine = Machine(structs)
        self.log = ProblemLog()
        self.sb = self.machine.put("super_block", {"s_dev": 8 << 20 | 1})
        self.root = self.dentry(b"/")
        self.mount = self.mounted(self.root)

    def dentry(self, name: bytes, parent: int = 0, **members: int) -> int:
        """A dentry; without a parent it is its own."""
        text = self.machine.room(len(name) + 1)
        self.machine.write(text, name)
        found = {"d_name.name": text, "d_name.len": len(name), "d_hash.pprev": 1} | members
        dentry = self.machine.put("dentry", found)
        self.machine.set("dentry", dentry, "d_parent", parent or dentry)
        return dentry

    def mounted(self, root: int, on: Place | None = None) -> int:
        """A mount of the tree below ``root``, at a place or at the top of the namespace; its vfsmount."""
        mount = self.machine.put("mount", {"mnt.mnt_root": root, "mnt.mnt_sb": self.sb})
        mnt = self.machine.at("mount", mount, "mnt")
        parent = mount if on is None else on.mnt - (mnt - mount)
        self.machine.set("mount", mount, "mnt_parent", parent)
        self.machine.set("mount", mount, "mnt_mountpoint", root if on is None else on.dentry)
        return mnt

    def file(self, dentry: int, mnt: int = 0, **inode: int) -> int:
        found = self.machine.put("inode", {"i_sb": self.sb, "i_ino": 77, "i_nlink": 1, "i_mode": REGULAR} | inode)
        members = {"f_path.dentry": dentry, "f_path.mnt": mnt or self.mount, "f_inode": found, "f_mapping": 0x99}
        return self.machine.put("file", members)

    def read(self, *files: int, root: Place | None = None) -> FileTable:
        return read_files(self.machine.kernel(), np.array(files, np.uint64), root, self.log)

    def path(self, dentry: int, mnt: int = 0, root: Place | None = None, **inode: int) -> bytes | None:
        return self.read(self.file(dentry, mnt, **inode), root=root).paths[0]

    def problems(self) -> list[Problem]:
        return [Problem(kind) for kind in self.log.table().problem.tolist()]


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_names_up_to_the_root_make_the_path(disk: Disk) -> None:
    usr = disk.dentry(b"usr", disk.root)
    assert disk.path(disk.dentry(b"a b", usr)) == b"/usr/a b"
    assert disk.path(usr) == b"/usr"
    assert disk.path(disk.root) == b"/"
    assert disk.problems() == []


def test_a_path_goes_on_where_its_file_system_is_mounted(disk: Disk) -> None:
    home = disk.dentry(b"home", disk.root)
    top = disk.dentry(b"/")
    mnt = disk.mounted(top, Place(home, disk.mount))
    assert disk.path(disk.dentry(b"file", top), mnt) == b"/home/file"
    assert disk.path(top, mnt) == b"/home"


def test_a_path_begins_at_the_readers_root(disk: Disk) -> None:
    jail = disk.dentry(b"jail", disk.root)
    inside = disk.dentry(b"file", disk.dentry(b"bin", jail))
    assert disk.path(inside, root=Place(jail, disk.mount)) == b"/bin/file"
    assert disk.path(jail, root=Place(jail, disk.mount)) == b"/"


def test_what_is_left_of_a_bind_mount_ends_where_its_tree_does(disk: Disk) -> None:
    gone = disk.dentry(b"gone")
    assert disk.path(disk.dentry(b"file", gone)) == b"/file"


def test_an_unhashed_dentry_is_a_deleted_file(disk: Disk) -> None:
    dentry = disk.dentry(b"x", disk.root, **{"d_hash.pprev": 0})
    assert disk.path(dentry) == b"/x (deleted)"


def test_a_file_system_says_whether_it_is_stacked_on_another() -> None:
    files = {"super_block": "s_dev:u32 s_magic:u64 s_flags:u64"}
    for structs, depth, stacked in (
        (files, None, True),
        ({"super_block": files["super_block"] + " s_stack_depth:i32"}, 0, False),
        ({"super_block": files["super_block"] + " s_stack_depth:i32"}, 1, True),
    ):
        disk = Disk(STRUCTS | structs)
        if depth is not None:
            disk.machine.set("super_block", disk.sb, "s_stack_depth", depth)
        assert disk.read(disk.file(disk.dentry(b"file", disk.root))).rows.stacked.tolist() == [stacked]


def test_a_name_ends_at_a_nul(disk: Disk) -> None:
    assert disk.path(disk.dentry(b"ab\0cd", disk.root)) == b"/ab"


def test_parents_in_a_circle_have_no_path(disk: Disk) -> None:
    first = disk.dentry(b"first")
    second = disk.dentry(b"second", first)
    disk.machine.set("dentry", first, "d_parent", second)
    assert disk.path(first) is None


def test_a_dentry_on_the_way_that_is_not_in_the_dump_costs_the_path(disk: Disk) -> None:
    lost = disk.machine.room(4096, 4096)
    disk.machine.room(4096, 4096)
    disk.machine.set("dentry", lost, "d_parent", disk.root)
    dentry = disk.dentry(b"file", lost)
    disk.machine.drop(lost)
    assert disk.path(dentry) is None
    assert disk.problems() == [Problem.UNREADABLE]


@pytest.mark.parametrize(
    ("magic", "shown"),
    [
        (0x534F434B, b"socket:[77]"),
        (0x50495045, b"pipe:[77]"),
        (0x09041934, b"anon_inode:name"),
        (0x444D4142, b"/name:"),
        (TMPFS, b"/name (deleted)"),
        (None, None),
    ],
)
def test_pseudo_file_systems_make_up_their_names(disk: Disk, magic: int | None, shown: bytes | None) -> None:
    """By the magic of the file system; a name is not guessed where that is not in the dump."""
    table = disk.machine.put("dentry_operations", {"d_dname": 0xFFFF888000001234})
    block = 0xFFFF_9000_0000_0000 if magic is None else disk.machine.put("super_block", {"s_magic": magic})
    assert disk.path(disk.dentry(b"name", d_op=table), i_sb=block) == shown


def test_files_have_what_their_inode_says(disk: Disk) -> None:
    first = disk.file(disk.root, i_nlink=0)
    second = disk.file(disk.root, i_mode=SOCKET, i_ino=5)
    files = disk.read(second, 0, first, second).rows
    assert files.file.tolist() == [first, second]
    assert (files.ino.tolist(), files.nlink.tolist()) == ([77, 5], [0, 1])
    assert (files.dev.tolist(), files.regular.tolist()) == ([8 << 20 | 1] * 2, [True, False])
    assert (files.mapping.tolist(), files.ok.tolist()) == ([0x99] * 2, [True, True])
    assert disk.problems() == []


@pytest.mark.parametrize(
    ("magic", "flags", "shmem"), [(TMPFS, KERNEL_MOUNT, True), (TMPFS, 0, False), (0xEF53, KERNEL_MOUNT, False)]
)
def test_shared_memory_lives_on_a_tmpfs_that_only_the_kernel_mounts(
    disk: Disk, magic: int, flags: int, shmem: bool
) -> None:
    sb = disk.machine.put("super_block", {"s_magic": magic, "s_flags": flags})
    assert disk.read(disk.file(disk.root, i_sb=sb)).rows.shmem.tolist() == [shmem]


def test_a_file_that_is_not_in_the_dump_and_one_that_cannot_be(disk: Disk) -> None:
    lost = disk.machine.room(4096, 4096)
    disk.machine.drop(lost)
    files = disk.read(lost, 0x1000)
    assert files.rows.file.tolist() == [0x1000, lost]
    assert files.rows.ok.tolist() == [False, False]
    assert files.paths == [None, None]
    assert sorted(disk.problems()) == sorted([Problem.NON_CANONICAL, Problem.UNREADABLE])
    assert files.rows_of(np.array([lost, 0, 7], np.uint64)).tolist() == [1, -1, -1]


def test_paths_begin_at_the_root_of_the_first_process(disk: Disk) -> None:
    machine = disk.machine
    fs = machine.put("fs_struct", {"root.dentry": 5, "root.mnt": 6})
    init_fs = machine.put("fs_struct", {"root.dentry": 1, "root.mnt": 2})
    task = machine.put("task_struct", {"fs": fs})
    machine.symbols["init_task"] = machine.put("task_struct", {"fs": init_fs})
    kernel = machine.kernel()
    assert reader_root(kernel, Tasks.of(task=[task], pid=[1], ok=[True])) == Place(5, 6)
    assert reader_root(kernel, Tasks.of(task=[task], pid=[2], ok=[True])) == Place(1, 2)
    assert reader_root(Machine(STRUCTS).kernel(), Tasks.zeros(0)) is None
