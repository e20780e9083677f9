"""Put together the guest's userland: a newc cpio archive written here, no tools.

Everything in it is owned by root and dated to the epoch, and the entries are
sorted, so that the same input gives the same archive.
"""

from __future__ import annotations

import lzma
import os
import re
import stat
import subprocess
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packages import Kernel

GUEST = Path(__file__).resolve().parent / "guest"
USR_LINKS = ("bin", "sbin", "lib", "lib32", "lib64")
LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x[0-9a-f]+\)")
MODULES = (
    "virtio_pci",
    "virtio_blk",
    "qemu_fw_cfg",
    "crc32c_generic",
    "ext4",
    "loop",
    "squashfs",
    "overlay",
    "af_packet",
)


@dataclass
class Tree:
    """The files of an archive: name to (mode, content)."""

    entries: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    def folder(self, name: str, mode: int = 0o755) -> None:
        """Add a folder and those above it."""
        parts = name.strip("/").split("/")
        for count in range(1, len(parts)):
            self.entries.setdefault("/".join(parts[:count]), (stat.S_IFDIR | 0o755, b""))
        self.entries.setdefault("/".join(parts), (stat.S_IFDIR | mode, b""))

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Add a file with its folders."""
        name = name.strip("/")
        if "/" in name:
            self.folder(str(PurePosixPath(name).parent))
        self.entries[name] = (stat.S_IFREG | mode, data)

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        name = name.strip("/")
        if "/" in name:
            self.folder(str(PurePosixPath(name).parent))
        self.entries[name] = (stat.S_IFLNK | 0o777, target.encode())

    def from_host(self, path: str) -> None:
        """Copy a file of the host to the same place; keep the last symlink."""
        source = Path(path)
        home = source.parent.resolve() / source.name
        if home.is_symlink():
            target = home.readlink()
            self.link(str(home), str(target))
            self.from_host(os.path.normpath(home.parent / target))
        elif home.is_file():
            self.file(str(home), home.read_bytes(), stat.S_IMODE(home.stat().st_mode))

    def program(self, path: str) -> None:
        """Copy a program of the host with the libraries it needs."""
        self.from_host(path)
        self.libraries(path)

    def libraries(self, path: str) -> None:
        """Copy the libraries a program needs."""
        done = subprocess.run(["ldd", path], capture_output=True, text=True)
        if done.returncode == 0:
            for library in LIBRARY.findall(done.stdout):
                self.from_host(library)

    def cpio(self) -> bytes:
        """The archive."""
        out = bytearray()
        names = sorted(self.entries)
        for number, name in enumerate([*names, "TRAILER!!!"], start=1):
            mode, data = self.entries.get(name, (0, b""))
            raw = name.encode() + b"\0"
            links = 2 if stat.S_ISDIR(mode) else 1
            numbers = (number, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0)
            header = "070701" + "".join(f"{value:08X}" for value in numbers)
            out += f"{header}{len(raw):08X}{0:08X}".encode() + raw
            out += b"\0" * (-len(out) % 4)
            out += data
            out += b"\0" * (-len(out) % 4)
        return bytes(out)


def skeleton() -> Tree:
    """Folders, links and busybox."""
    tree = Tree()
    for name in ("dev", "proc", "sys", "run", "tmp", "mnt", "etc", "root", "usr"):
        tree.folder(name)
    for name in USR_LINKS:
        tree.folder(f"usr/{name}")
        tree.link(name, f"usr/{name}")
    tree.program("/bin/busybox")
    return tree


def module_order(kernel: Kernel, wanted: tuple[str, ...]) -> list[Path]:
    """The files of modules and of what they need, in the order to load them."""
    needs: dict[str, list[str]] = {}
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        name, _, rest = line.partition(":")
        needs[name] = rest.split()
    by_name = {module_name(path): path for path in needs}
    order: list[str] = []

    def add(path: str) -> None:
        for other in needs.get(path, []):
            add(other)
        if path not in order:
            order.append(path)

    for name in wanted:
        if name in by_name:  # otherwise it is built in
            add(by_name[name])
    return [kernel.modules / path for path in order]


def module_name(path: str) -> str:
    """foo_bar of kernel/x/foo-bar.ko.xz."""
    return PurePosixPath(path).name.split(".ko")[0].replace("-", "_")


def module_data(path: Path) -> bytes:
    """The content of a module, decompressed."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq"], input=data, capture_output=True, check=True).stdout
    return data


def add_modules(tree: Tree, kernel: Kernel, wanted: tuple[str, ...] = MODULES) -> None:
    """Put modules and the list of them, in loading order, into the archive."""
    lines = []
    for path in module_order(kernel, wanted):
        name = f"{module_name(path.name)}.ko"
        tree.file(f"modules/{name}", module_data(path))
        lines.append(name)
    tree.file("modules/order", "".join(f"{line}\n" for line in lines).encode())


def add_python(tree: Tree) -> bool:
    """Add the host distribution's Python with its minimal library, if any."""
    program = Path("/usr/bin/python3")
    if not program.exists():
        return False
    name = program.resolve().name  # python3.11
    listed = subprocess.run(["dpkg", "-L", f"lib{name}-minimal"], capture_output=True, text=True)
    if listed.returncode != 0:
        return False
    for path in listed.stdout.splitlines():
        if path.startswith("/usr/lib/") and path.endswith(".py"):
            tree.from_host(path)
    tree.program(str(program))
    return True


def add_locale(tree: Tree) -> None:
    """Add the C.UTF-8 locale, which ordinary programs map."""
    for folder in ("/usr/lib/locale/C.utf8", "/usr/lib/locale/C.utf8/LC_MESSAGES"):
        if Path(folder).is_dir():
            for path in sorted(Path(folder).iterdir()):
                if path.is_file():
                    tree.from_host(str(path))
    for name in ("gconv-modules.cache",):
        found = sorted(Path("/usr/lib").glob(f"*/gconv/{name}"))
        if found:
            tree.from_host(str(found[0]))


def add_guest(tree: Tree, programs: Path) -> None:
    """Add the compiled guest programs and the init script."""
    tree.file("init", (GUEST / "init").read_bytes(), 0o755)
    tree.file("system", (GUEST / "system").read_bytes())
    tree.file("control", (GUEST / "control").read_bytes())
    for path in sorted(programs.iterdir()):
        tree.file(f"usr/bin/{path.name}", path.read_bytes(), 0o755)
        tree.libraries(str(path))
    for path in sorted(Path("/usr/lib").glob("*-linux-gnu/libgcc_s.so.1")):
        tree.program(str(path))  # loaded when a thread ends itself
