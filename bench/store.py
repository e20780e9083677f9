"""What is known of an image and of this machine, and the results of the last run in ``bench/last.json``."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measure import BenchError, Result, Run

LAST = Path(__file__).with_name("last.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An image, by its manifest."""

    name: str
    path: Path
    release: str
    size: int  # bytes of the file
    processes: int  # with memory of their own, so the guest said
    areas: int  # lines of their /proc/PID/maps

    @property
    def key(self) -> str:
        """Two images of one name may have been made of different kernels."""
        return f"{self.name} {self.release} {self.areas}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a time depends on besides the code."""

    cpu: str
    cores: int
    python: str
    numpy: str


def subject(folder: Path, name: str) -> Subject:
    """The image ``name``; raises :class:`BenchError` if it is not finished."""
    path, manifest = folder / f"{name}.elf", folder / f"{name}.json"
    if not path.exists():
        path = path.with_suffix(".kdump") if path.with_suffix(".kdump").exists() else path
    if not path.exists() or not manifest.exists():
        raise BenchError(f"{path} is not there; `make bench-image` makes bench-2g, `make bench-images` all")
    made = json.loads(manifest.read_text())
    return Subject(
        name=name,
        path=path,
        release=made["release"],
        size=path.stat().st_size,
        processes=made["truth"]["with_memory"],
        areas=made["truth"]["areas"],
    )


def machine() -> Machine:
    """This machine, without its name."""
    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        label, _, value = line.partition(":")
        if label.strip() == "model name":
            cpu = " ".join(value.split())
            break
    cores = len(os.sched_getaffinity(0))
    return Machine(cpu=cpu, cores=cores, python=platform.python_version(), numpy=version("numpy"))


def busy(here: Machine, result: Result) -> bool:
    """Had the machine more to do than it has cores, so that only CPU time says much? Also if nobody knows."""
    return result.load is None or result.load > here.cores


def load(here: Machine) -> dict[str, dict[str, Result]]:
    """The last results by image and command; none if they were got on another machine."""
    if not LAST.exists():
        return {}
    stored = json.loads(LAST.read_text())
    if stored["machine"] != asdict(here):
        return {}
    return {
        key: {name: _result(result) for name, result in results.items()} for key, results in stored["images"].items()
    }


def save(here: Machine, results: dict[str, dict[str, Result]]) -> None:
    """Keep the results, those of commands that did not run this time too: each has its date."""
    images = {key: {name: asdict(item) for name, item in found.items()} for key, found in results.items()}
    LAST.write_text(json.dumps({"machine": asdict(here), "images": images}, indent=1) + "\n")


def _result(stored: dict[str, Any]) -> Result:
    return Result(
        runs=tuple(Run(**run) for run in stored["runs"]),
        areas=stored["areas"],
        tool=stored["tool"],
        version=stored["version"],
        does=stored["does"],
        date=stored["date"],
        load=stored.get("load"),
        entries=stored.get("entries"),
        walk=stored.get("walk"),
        of_case=stored.get("of_case", False),
    )
