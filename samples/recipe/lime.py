"""Modules built for a kernel of the recipe from that kernel's own headers: LiME as Debian packages it, a live patch."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from initramfs import GUEST
from packages import PackageError, PrivateApt, depends

if TYPE_CHECKING:
    from pathlib import Path

    from packages import Kernel

SOURCE = "lime-forensics-dkms"
SUITES = {"bullseye": "bookworm", "trixie-backports": "sid"}  # where a kernel's suite has no LiME that builds for it
LIBRARIES_OF = {"trixie-backports": "trixie"}
LIBRARIES = ("libc6", "libelf1t64", "zlib1g", "libzstd1")
NO_BTF = "CONFIG_DEBUG_INFO_BTF_MODULES="  # that would need pahole, and nobody asks for it
TOOLS = ("scripts/basic/fixdep", "scripts/mod/modpost.real-lsb-64", "tools/objtool/objtool.real-x86")

# The compiler of this machine may be older than the kernel's own, and not know what that was told.
COMPILER = """#!/bin/sh
for word in "$@"; do
	shift
	case "$word" in
	-fmin-function-alignment=*) word="-falign-functions=${word#*=}" ;;
	esac
	set -- "$@" "$word"
done
exec gcc "$@"
"""


def unpacked(suite: str, packages: list[str], build: Path, root: Path) -> None:
    """Download packages and unpack them below a folder."""
    apt = PrivateApt(build / "apt", suite)
    apt.update()
    for package in packages:
        deb = apt.download(package, build / "debs")
        subprocess.run(["dpkg", "-x", str(deb), str(root)], check=True)


def headers(kernel: Kernel, suite: str, build: Path, root: Path) -> Path:
    """The folder to build modules of a kernel in; its Makefile, which names /usr, is led to where it lies."""
    apt = PrivateApt(build / "apt", suite)
    apt.update()
    package = f"linux-headers-{kernel.release}"
    parts = [name for name in depends(apt.show(package)) if name.startswith(("linux-headers-", "linux-kbuild-"))]
    unpacked(suite, [package, *parts], build, root)
    folder = root / "usr/src" / package
    makefile = folder / "Makefile"
    makefile.write_text(re.sub("(?<=[ =])/usr/src/", f"{root}/usr/src/", makefile.read_text()))
    return folder


def runnable(root: Path, suite: str, build: Path) -> None:
    """Let the programs of the headers run with the libraries of their own suite, where this machine's are older."""
    tools = [tool for name in TOOLS for tool in root.glob(f"usr/lib/linux-kbuild-*/{name}")]
    if all(b"GLIBC" not in subprocess.run([tool], capture_output=True).stderr for tool in tools):
        return
    unpacked(suite, list(LIBRARIES), build, root)
    loader = root / "usr/lib64/ld-linux-x86-64.so.2"
    for tool in tools:
        real = tool.rename(tool.with_name(f"{tool.name}.real"))
        tool.write_text(f'#!/bin/sh\nexec {loader} --library-path {root}/usr/lib/x86_64-linux-gnu {real} "$@"\n')
        tool.chmod(0o755)


def module(kernel: Kernel, suite: str, build: Path) -> Path:
    """lime.ko for a kernel. Raises :class:`PackageError` if it cannot be built here."""
    made = build / "lime" / kernel.release / "lime.ko"
    if made.exists():
        return made
    root = (build / "headers" / kernel.release).resolve()
    root.mkdir(parents=True, exist_ok=True)
    unpacked(SUITES.get(suite, suite), [SOURCE], build, root)
    (source,) = root.glob("usr/src/lime-forensics-*")
    return compiled(kernel, suite, build, source, made)


def live_patch(kernel: Kernel, suite: str, build: Path) -> Path:
    """livepatch.ko for a kernel. Raises :class:`PackageError` if it cannot be built here."""
    made = build / "livepatch" / kernel.release / "livepatch.ko"
    if made.exists():
        return made
    source = (build / "livepatch" / kernel.release / "source").resolve()
    shutil.copytree(GUEST / "livepatch", source, dirs_exist_ok=True)
    return compiled(kernel, suite, build, source, made)


def compiled(kernel: Kernel, suite: str, build: Path, source: Path, made: Path) -> Path:
    """Build the one module whose source lies in a folder."""
    root = (build / "headers" / kernel.release).resolve()
    folder = root / f"usr/src/linux-headers-{kernel.release}"
    if not (root / "ready").exists():
        root.mkdir(parents=True, exist_ok=True)
        headers(kernel, suite, build, root)
        runnable(root, LIBRARIES_OF.get(suite, suite), build)
        (root / "ready").touch()
    compiler = root / "cc"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    command = ["make", "-s", "-C", str(folder), f"M={source}", f"CC={compiler}", NO_BTF, "modules"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0 or not (source / made.name).exists():
        raise PackageError(f"{made.stem} for {kernel.release}: {done.stderr.strip()[-400:]}")
    made.parent.mkdir(parents=True, exist_ok=True)
    (source / made.name).rename(made)
    return made
