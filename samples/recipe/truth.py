"""Look into a truth archive: is it whole, and which features does it show?"""

from __future__ import annotations

import re
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# What must be seen in the maps or smaps of some process, in words of /proc.
EXPECTED = {
    "heap": rb"\[heap\]",
    "stack": rb"\[stack\]",
    "vdso": rb"\[vdso\]",
    "vvar": rb"\[vvar\]",
    "vsyscall": rb"\[vsyscall\]",
    "uprobes": rb"\[uprobes\]",
    "aio": rb"/\[aio\] \(deleted\)",
    "io_uring": rb"anon_inode:\[io_uring\]",
    "perf_event": rb"anon_inode:\[perf_event\]",
    "bpf map": rb"anon_inode:bpf-map",
    "packet ring": rb"socket:\[\d+\]",
    "userfaultfd": rb"VmFlags:.* um\b",
    "userfaultfd wp": rb"VmFlags:.* uw\b",
    "/dev/mem": rb"/dev/mem\n",
    "PCI resource": rb"/resource\d",
    "memfd": rb"/memfd:plain memfd \(deleted\)",
    "memfd newline": rb"/memfd:mem\\012fd",
    "memfd_secret": rb"/secretmem",
    "System V": rb"/SYSV1234abcd \(deleted\)",
    "/dev/zero shared": rb"/dev/zero \(deleted\)",
    "newline in name": rb"/run/names/new\\012line",
    "long path": rb"/04e{198}/the file\n",
    "path over PATH_MAX": rb"/24y{248}/the file\n",
    "deleted file": rb"/run/names/gone \(deleted\)",
    "overlay": rb"/ovl/merged/",
    "squashfs": rb"/mnt/squash/usr/bin/sleep",
    "ext4": rb"/mnt/ext4/usr/bin/sleep",
    "offset over 4 GiB": rb" 140000000 .*sparse",
    "high address (5 levels)": rb"(?m)^1[0-9a-f]{13}-1",
    "address zero": rb"(?m)^00000000-",
    "growsdown": rb"VmFlags:.* gd\b",
    "THP": rb"AnonHugePages: +[1-9]",
    "shmem THP": rb"ShmemPmdMapped: +[1-9]",
    "huge pages private": rb"Private_Hugetlb: +[1-9]",
    "huge pages shared": rb"Shared_Hugetlb: +[1-9]",
    "swap": rb"Swap: +[1-9]",
    "locked": rb"Locked: +[1-9]",
    "lazily free": rb"LazyFree: +[1-9]",
    "KSM": rb"KSM: +[1-9]",
    "dontdump": rb"VmFlags:.* dd\b",
    "dontfork": rb"VmFlags:.* dc\b",
    "wipeonfork": rb"VmFlags:.* wf\b",
    "mergeable": rb"VmFlags:.* mg\b",
    "soft-dirty cleared": rb"VmFlags:(?!.* sd\b).* wr\b",
    "sealed": rb"VmFlags:.* sl\b",
    "droppable": rb"VmFlags:.* dp\b",
    "protection key": rb"ProtectionKey: +[1-9]",
    "named anonymous": rb"\[anon:",
    "32-bit program": rb"/usr/bin/tiny32",
    "python": rb"/usr/bin/python3",
    "program deleted": rb"/run/gone prog \(deleted\)",
}
STATES = {"zombie": "Z (zombie)", "stopped": "T (stopped)", "traced": "t (tracing stop)"}


@dataclass
class Report:
    """What an archive shows."""

    processes: int = 0
    with_memory: int = 0
    areas: int = 0
    complete: bool = False
    missing: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def inspect(path: Path, bench: bool = False) -> Report:
    """Read an archive and list what is missing from it."""
    report = Report()
    seen: set[str] = set()
    with tarfile.open(path) as archive:
        for entry in archive:
            stream = archive.extractfile(entry)
            data = stream.read() if stream else b""
            if re.fullmatch(r"proc/\d+/maps", entry.name):
                report.processes += 1
                report.with_memory += bool(data)
                report.areas += data.count(b"\n")
            elif re.fullmatch(r"proc/\d+/maps\.count", entry.name):
                report.processes += 1
                report.with_memory += data != b"0\n"
                report.areas += int(data)
            elif entry.name == "complete":
                report.complete = True
            elif entry.name.startswith("run/log/"):
                lines = data.decode("utf-8", "replace").splitlines()
                role = entry.name.rpartition("/")[2]
                for line in lines:
                    if line.startswith("no "):
                        report.failed.append(f"{role}: {line.split(' ', 2)[2]}")
            if entry.name.endswith(("/maps", "/smaps")):
                seen.update(n for n, e in EXPECTED.items() if re.search(e, data))
            elif entry.name.endswith("/status"):
                text = data.decode("utf-8", "replace")
                seen.update(n for n, state in STATES.items() if state in text)
    if not bench:
        report.missing = [name for name in [*EXPECTED, *STATES] if name not in seen]
    return report
