"""A guest at work: told what to do, looked at from outside, edited."""

from __future__ import annotations

import re
import tarfile
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qemu import GuestError
from storms import LOADS

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable
    from pathlib import Path

    from packages import Kernel
    from qemu import Guest
    from storms import Work

STORMS = re.compile(r"^DECOY (\d+) (?:awk-storm-|(?!awk-))(\S+) ", re.MULTILINE)
MOST_SECONDS = 1800  # that a reader may take


def member(archive: Path, name: str) -> bytes:
    """A file of a record."""
    with tarfile.open(archive) as members:
        stream = members.extractfile(name)
        assert stream is not None
        return stream.read()


def processes(archive: Path) -> dict[int, str]:
    """Name of every process with memory in a record, by process id; not of init, and of what took the record."""
    names: dict[int, str] = {}
    mapped = set()
    capturing = 0
    with tarfile.open(archive) as members:
        for member in members:
            parts = member.name.removeprefix("./").split("/")
            stream = members.extractfile(member)
            if stream is None:
                continue
            if parts == ["capturing"]:
                capturing = int(stream.read())
            elif len(parts) == 3 and parts[0] == "proc" and parts[2] == "comm":
                names[int(parts[1])] = stream.read().decode("latin-1").rstrip("\n")
            elif len(parts) == 3 and parts[0] == "proc" and parts[2] == "maps" and stream.read(1):
                mapped.add(int(parts[1]))
    return {pid: name for pid, name in sorted(names.items()) if pid in mapped and pid not in (1, capturing)}


@dataclass
class Site:
    """A guest at work, and where its images go."""

    work: Work
    kernel: Kernel
    guest: Guest
    folder: Path  # of this guest, for what is not finished
    out: Path
    chance: random.Random
    memory: Path  # the guest's, as a file
    jiffies: int = 0  # physical address of jiffies_64
    load: str = ""
    asked: int = 0
    made: int = 0
    resting: dict[int, str] = field(default_factory=dict)
    edits: list[object] = field(default_factory=list)  # made so far
    functions: dict[str, int] = field(default_factory=dict)  # addresses of those that images are made within
    storms: dict[int, str] = field(default_factory=dict)  # what of the load does not rest; not its children

    def number(self) -> int:
        """Of the next image."""
        self.made += 1
        return self.made - 1

    def acquire(self, reader: str) -> list[list[float]]:
        """Let the guest run LiME or another reader; [host's time, jiffies, bytes that have arrived on the disk] as it
        goes on."""
        seen = []
        self.asked += 1
        self.guest.tell(f"{self.asked} {reader} lime")
        while f"WORK-DONE {self.asked}." not in self.guest.text():
            arrived = (self.folder / "lime.disk").stat().st_blocks * 512
            seen.append([round(time.time(), 3), self.clock(), arrived])
            time.sleep(0.1)
            self.guest.check_alive(f"{reader} had finished")
            if seen[-1][0] - seen[0][0] > MOST_SECONDS:
                raise GuestError(f"{reader} has not finished in {MOST_SECONDS} s")
        return seen

    def ask(self, words: str, seconds: float = 300) -> None:
        """Tell the guest what to do and wait until it has."""
        self.asked += 1
        self.guest.tell(f"{self.asked} {words}")
        self.guest.wait_for(f"WORK-DONE {self.asked}.", seconds=seconds)

    def start(self, load: str) -> None:
        """Another load, or several at once: ``births+answers``."""
        before = len(self.guest.text())
        storms = dict.fromkeys(storm for name in load.split("+") for storm in LOADS[name])
        self.ask(" ".join(("load", *storms)), 1200)
        self.load = load
        self.storms = {int(pid): name for pid, name in STORMS.findall(self.guest.text()[before:])}
        time.sleep(1)

    def clock(self) -> int:
        """jiffies_64 now."""
        with self.memory.open("rb") as memory:
            memory.seek(self.jiffies)
            return int.from_bytes(memory.read(8), "little")

    def look(self, functions: Iterable[str]) -> None:
        """Find the clock and functions in an image of the guest."""
        import hidings  # needs the package and NumPy, as little else of the recipe does

        path = self.folder / "look.elf"
        self.guest.qmp("stop")
        self.guest.dump_elf(path)
        self.guest.qmp("cont")
        image = hidings.opened(path, self.kernel.vmlinux)
        self.jiffies = hidings.physical(image, "jiffies_64")
        self.functions = hidings.addresses(image, functions)
        path.unlink()

    def hide(self) -> None:
        """Make the labelled edits, in processes that rest and in those of the load."""
        import hidings

        path = self.folder / "look.elf"
        self.guest.qmp("stop")
        self.guest.dump_elf(path)
        storms = list(self.storms.items())
        self.chance.shuffle(storms)
        image = hidings.opened(path, self.kernel.vmlinux)
        self.edits = hidings.hide(self.memory, image, self.guest.text(), self.resting, dict(storms))
        self.guest.qmp("cont")
        path.unlink()

    def record(self, when: str) -> Path:
        """What the guest's /proc says now."""
        before = self.guest.text().count("TRUTH-SIZE ")
        self.ask(f"truth {when}", 300)
        sizes = re.findall(r"TRUTH-SIZE (\d+)", self.guest.text())[before:]
        if not sizes:
            raise GuestError(f"the guest has not said how long the record {when} is")
        size = int(sizes[0])
        path = self.out / f"{self.work.name}.{when}.tar"
        with (self.folder / f"{when}.disk").open("rb") as disk:
            path.write_bytes(disk.read(size))
        return path

    def manifest(self, **more: object) -> dict[str, object]:
        """What is known of an image made now."""
        return {
            "kernel": self.work.series,
            "package": self.kernel.package,
            "version": self.kernel.version,
            "release": self.kernel.release,
            "cmdline": self.work.kernel_cmdline,
            "cpus": self.work.cpus,
            "memory_mib": self.work.memory,
            "seed": self.work.seed,
            "load": self.load,
            "storms": self.storms,
            "resting": self.resting,
            "edits": self.edits,
            "truth": f"{self.work.name}.before.tar",
            **more,
        }
