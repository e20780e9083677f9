"""What is measured: our own commands and, where they are to be had, those of other tools."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from measure import BenchError, count, run_once

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
PLUGINS = HERE.parent / "plugins"
MINUTES = 60.0


EARLIER = ", before"  # behind the name of a command of another version of this program


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One command that reads an image."""

    name: str
    does: str  # for the page
    tool: str
    version: str
    command: Callable[[Path], list[str]]
    areas: Callable[[Path], int] | None  # areas in its output
    entries: Callable[[Path], tuple[int, float]] | None = None  # page-table entries walked, seconds
    ours: bool = True
    once: bool = False  # minutes long: no warm-up of its own, and one run
    timeout: float = 30 * MINUTES
    prepare: Callable[[Path, Path], None] | None = None  # image, scratch folder
    of_case: bool = False  # a crash engineer asks for it; areas say nothing of it


def our_commands(bin_folder: Path, scratch: Path) -> list[Contender]:
    """The verbs that read every process."""
    program = str(bin_folder / "vmaforensics")
    report = str(scratch / "report.json")

    def own(name: str, does: str, *arguments: str, areas: Callable[[Path], int] | None = None) -> Contender:
        return Contender(
            name=name,
            does=does,
            tool="vmaforensics",
            version=version("vmaforensics"),
            command=lambda image: [program, *arguments, str(image)],
            areas=areas,
        )

    return [
        own(
            "report --format json",
            "every view, every check, every area with its file and name",
            *("report", "--format", "json", "--force", "-o", report),
            areas=lambda _: count(Path(report), b'"perms":'),
        ),
        own("report", "every view, every check; a line a process", "report"),
        own("maps", "every area as in `/proc/PID/maps`", "maps", areas=_lines_of_maps),
        *(
            replace(own(name, does, *name.split()), of_case=True)
            for name, does in (
                ("info", "the kernel, its symbols and structures; a line a process"),
                ("log", "the kernel's log"),
                ("crash --all", "the log, every stack, who waits for whom, memory; complaints followed"),
            )
        ),
        Contender(
            name="page-table walk",
            does="the entries under every pgd",
            tool="vmaforensics",
            version=version("vmaforensics"),
            command=lambda image: [sys.executable, str(HERE / "walk.py"), str(image)],
            areas=None,
            entries=_walked,
        ),
    ]


def earlier_commands(bin_folder: Path | None, scratch: Path) -> list[Contender]:
    """The same verbs of another version, whose programs lie in ``bin_folder``."""
    if bin_folder is None:
        return []
    commands = [command for command in our_commands(bin_folder, scratch) if command.entries is None]
    return [replace(command, name=command.name + EARLIER, areas=None) for command in commands]


def volatility(bin_folder: Path, scratch: Path, isf: Path | None) -> list[Contender]:
    """volatility3 with our plugin and, given symbols, with its own."""
    program = bin_folder / "vol"
    if not program.exists():
        return []
    base = [str(program), "-q", "--offline", "--cache-path", str(scratch / "cache")]
    ours = [*base, "-p", str(PLUGINS), "-f"]
    theirs = [*base, "-s", str(isf), "-f"]

    def warm(image: Path, output: Path) -> None:
        # Indexes the symbols and reads the image once: neither is the plugin's own time.
        run_once([*theirs, str(image), "linux.pslist.PsList", "--pid", "1"], output, 15 * MINUTES)

    found = [
        Contender(
            name="linux.vmaxview.VmaXView",
            does="our views, in volatility3",
            tool="volatility3",
            version=version("volatility3"),
            command=lambda image: [*ours, str(image), "-r", "json", "linux.vmaxview.VmaXView"],
            areas=lambda path: count(path, b'"VMA agrees":'),
            ours=False,
        )
    ]
    if isf:
        found.append(
            Contender(
                name="linux.proc.Maps",
                does="the maple tree or the list; every area with its file",
                tool="volatility3",
                version=version("volatility3"),
                command=lambda image: [*theirs, str(image), "linux.proc.Maps"],
                areas=_rows_of_volatility,
                ours=False,
                once=True,
                prepare=warm,
            )
        )
    return found


def _of_case(python: Path, script: str, vmlinux: Path, more: list[str], image: Path) -> list[str]:
    return [str(python), script, str(image), str(vmlinux), *more]


def drgn(python: Path | None, vmlinux: Path | None) -> list[Contender]:
    """drgn with a script that walks the same areas; needs the vmlinux of the image's own kernel."""
    if python is None or vmlinux is None:
        return []
    script, case = str(HERE / "drgn_walk.py"), str(HERE / "drgn_case.py")
    done = subprocess.run(
        [str(python), "-c", "import drgn; print(drgn.__version__)"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchError(f"{python} cannot import drgn")
    return [
        Contender(
            name="for_each_vma",
            does="the maple tree or the list; start and end only",
            tool="drgn",
            version=done.stdout.strip(),
            command=lambda image: [str(python), script, str(image), str(vmlinux)],
            areas=lambda path: count(path, b"\n"),
            ours=False,
        ),
        *(
            Contender(
                name=name,
                does=does,
                tool="drgn",
                version=done.stdout.strip(),
                command=partial(_of_case, python, case, vmlinux, more),
                areas=None,
                ours=False,
                of_case=True,
            )
            for name, does, more in (
                ("get_dmesg", "the kernel's log", ["log"]),
                ("get_dmesg, stack_trace", "the log, every stack with inlined functions", []),
            )
        ),
    ]


def _walked(path: Path) -> tuple[int, float]:
    words = path.read_text().split()
    return int(words[0]), float(words[2])


def _lines_of_maps(path: Path) -> int:
    headers = count(path, b"\n==> ") + 1  # the first line is one too
    return count(path, b"\n") - headers


def _rows_of_volatility(path: Path) -> int:
    return count(path, b"\n") - 4  # banner and names of the columns, each with an empty line
