"""Disks with a Debian by debootstrap: the root of a guest with systemd, with what starts containers and writes the
record; and one with servers, and what starts them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import disks
from initramfs import GUEST
from packages import PackageError, mirrors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SUITE = "bookworm"
PACKAGES = (
    *("systemd-sysv", "systemd-container", "dbus", "btrfs-progs", "procps"),
    *("bubblewrap", "runc", "podman", "crun", "netavark"),
)
SERVERS = (
    *("postgresql", "redis-server", "redis-tools", "nginx-light", "apache2-utils", "nodejs", "python3-minimal"),
    "procps",
)
DAEMONS = {"daemons": "bin", "daemons.nginx": "share", "daemons.js": "share", "daemons.py": "share"}
USELESS = ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/lib/apt/lists", "var/cache/apt")
MASKED = ("systemd-journald.service", "systemd-journald.socket", "systemd-timesyncd.service", "apt-daily.timer")
MIB = 1024
UNIT = """\
[Unit]
Description=Containers, and the record
[Service]
ExecStart=/usr/local/bin/containers
StandardOutput=tty
Delegate=yes
[Install]
WantedBy=multi-user.target
"""
CONTAINER = {
    "ociVersion": "1.0.2",
    "process": {"user": {"uid": 0, "gid": 0}, "args": ["/usr/bin/own-sleep", "1000000"], "cwd": "/"},
    "root": {"path": "/ctr/runc/merged"},
    "hostname": "first",
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
    "linux": {"namespaces": [{"type": name} for name in ("pid", "mount", "uts", "ipc", "network")]},
}


def root_disk(path: Path, build: Path, programs: Path) -> Path:
    """An ext4 disk with the system, made anew from a tree that is kept."""
    root = tree(build, SUITE, PACKAGES)
    furnish(root, programs)
    return as_ext4(path, root)


def servers_disk(path: Path, build: Path, programs: Path) -> Path:
    """An ext4 disk with servers, and what gives them areas to hide something in."""
    root = tree(build, "servers", SERVERS)
    useless(root)
    for name, folder in DAEMONS.items():
        target = root / "usr/local" / folder / name
        shutil.copyfile(GUEST / name, target)
        target.chmod(0o755)
    shutil.copyfile(programs / "preload.so", root / "usr/local/lib/preload.so")
    (root / "etc/ld.so.preload").write_text("/usr/local/lib/preload.so\n")
    return as_ext4(path, root)


def tree(build: Path, name: str, packages: Sequence[str]) -> Path:
    """A Debian with these packages, kept below ``build``. Raises :class:`PackageError`."""
    if shutil.which("debootstrap") is None:
        raise PackageError("apt-get install --no-install-recommends debootstrap")
    root = build / "roots" / name
    complete = root.with_suffix(".packages")  # beside it: what the tree was made of
    if not complete.exists() or complete.read_text().split() != list(packages):
        shutil.rmtree(root, ignore_errors=True)
        root.parent.mkdir(parents=True, exist_ok=True)
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", SUITE, str(root)]
        done = subprocess.run([*command, mirrors()["Debian"]], capture_output=True, text=True)
        if done.returncode != 0:
            raise PackageError(f"debootstrap: {done.stdout.splitlines()[-3:]}")
        complete.write_text("\n".join(packages))
    return root


def as_ext4(path: Path, root: Path) -> Path:
    """A disk made of a tree."""
    disks.blank(path, MIB)
    disks.tool("mkfs.ext4", "-q", "-F", "-d", str(root), str(path))
    return path


def useless(root: Path) -> None:
    """Take out what only takes room."""
    for name in USELESS:
        shutil.rmtree(root / name, ignore_errors=True)


def furnish(root: Path, programs: Path) -> None:
    """Put what is ours into the tree."""
    useless(root)
    shutil.copyfile(GUEST / "containers", root / "usr/local/bin/containers")
    shutil.copyfile(programs / "truth", root / "usr/local/bin/truth")
    for name in ("containers", "truth"):
        (root / "usr/local/bin" / name).chmod(0o755)
    units = root / "etc/systemd/system"
    (units / "containers.service").write_text(UNIT)
    wants = units / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    for link, target in [
        (wants / "containers.service", "../containers.service"),
        *((units / name, "/dev/null") for name in MASKED),
    ]:
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    (root / "etc/hostname").write_text("guest\n")
    (root / "etc/fstab").write_text("")
    (root / "ctr/runc").mkdir(parents=True, exist_ok=True)
    (root / "ctr/runc/config.json").write_text(json.dumps(CONTAINER))
    disks.unpack(disks.userland(), root / "srv/lower")
    os.sync()
