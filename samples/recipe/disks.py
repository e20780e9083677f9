"""The guest's disks: an ext4 with ordinary programs and a squashfs, and blanks."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from typing import TYPE_CHECKING

from initramfs import Tree

if TYPE_CHECKING:
    from pathlib import Path

UUID = "7a1d0000-0000-4000-8000-000000000001"
EPOCH = {"SOURCE_DATE_EPOCH": "1700000000", "E2FSPROGS_FAKE_TIME": "1700000000"}
PROGRAMS = ("/usr/bin/bash", "/usr/bin/sleep", "/usr/bin/cat")


def blank(path: Path, mebibytes: int) -> Path:
    """A sparse file of zeros."""
    path.unlink(missing_ok=True)
    with path.open("wb") as stream:
        stream.truncate(mebibytes << 20)
    return path


def unpack(tree: Tree, root: Path) -> None:
    """Write the files of a tree below a folder."""
    if root.exists():
        shutil.rmtree(root)
    root.mkdir(parents=True)
    for name in sorted(tree.entries):
        mode, data = tree.entries[name]
        path = root / name
        if stat.S_ISDIR(mode):
            path.mkdir(exist_ok=True)
        elif stat.S_ISLNK(mode):
            path.symlink_to(data.decode())
        else:
            path.write_bytes(data)
            path.chmod(stat.S_IMODE(mode))


def userland() -> Tree:
    """A small root folder with dynamic programs."""
    tree = Tree()
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        tree.folder(f"usr/{name}")
        tree.link(name, f"usr/{name}")
    for name in ("proc", "dev", "run", "tmp"):
        tree.folder(name)
    for program in PROGRAMS:
        tree.program(program)
    for name in ("lower", "copied", "unlinked"):
        tree.file(f"work/{name}", f"{name}\n".encode() * 2000)
    return tree


def tool(*command: str) -> None:
    """Run a file system tool with a fixed clock, in silence."""
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **EPOCH})
    if done.returncode != 0:
        raise OSError(f"{command[0]}: {done.stderr.strip()}")


def ext4(path: Path, work: Path) -> Path:
    """The ext4 disk; it holds a squashfs image of the same programs."""
    tree = userland()
    root = work / "root"
    squash = work / "squash.img"
    unpack(tree, root)
    squash.unlink(missing_ok=True)
    tool(
        "mksquashfs",
        str(root),
        str(squash),
        "-all-root",
        "-comp",
        "gzip",
        "-no-progress",
        "-quiet",
    )
    shutil.copyfile(squash, root / "squash.img")
    blank(path, 64)
    tool(
        "mkfs.ext4",
        "-q",
        "-F",
        "-d",
        str(root),
        "-U",
        UUID,
        "-E",
        f"hash_seed={UUID},lazy_itable_init=0,root_owner=0:0",
        "-O",
        "^orphan_file,^metadata_csum_seed",
        str(path),
    )
    shutil.rmtree(root)
    squash.unlink()
    return path
