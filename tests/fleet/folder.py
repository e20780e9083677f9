"""A folder of images as a case of many machines has it: made of the bundled samples, with what must be found in each.

Three roles, a kernel each. A sound machine is a sample under another host name; a tampered one has a labelled edit of
``tests/tamper`` besides; two died of the same bug, one was read while it ran, and some files are broken.

    python -m tests.fleet.folder DIR [--count 200]
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import Edit, Sample, bundled
from tamper.table import edits

from vmaforensics.errors import VmaForensicsError
from vmaforensics.export.excerpt_file import FILTERED, held_frames
from vmaforensics.image.kdump.writer import Head, write_kdump

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tamper.edits import Label

ROLES: Final = {"web": "debian-6.1", "database": "debian-6.12", "mail": "debian-7.3"}
LIST: Final = "machines.list"
PLAN: Final = "plan.json"
_DEAD: Final = "crash-6.1-vma-file"
_LIVE: Final = "live-6.1"
_LEVEL: Final = 1  # of zstd: two hundred files are written
# Of two hundred; the others are sound.
_TAMPERED: Final = 24
_BROKEN: Final = 12
_NOT_HERE: Final = (AssertionError, KeyError, IndexError, ValueError, VmaForensicsError)  # an edit does not apply

Damage = Callable[[bytes], bytes]
DAMAGES: Final[dict[str, Damage]] = {
    "empty": lambda whole: b"",
    "beginning": lambda whole: whole[:100],
    "head": lambda whole: whole[: 64 << 10],
    "header-overwritten": lambda whole: b"KDUMP   " + b"\xff" * 4088 + whole[4096:],
    "text": lambda whole: b"This was a memory image.\n" * 400,
    "zeros": lambda whole: bytes(1 << 20),
}


class Recipe(NamedTuple):
    """One machine before it is made."""

    kind: str
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What lies in a file of the folder: ``kind`` is sound, tampered, crashed, live or broken."""

    file: str  # its name
    kind: str
    role: str
    hostname: str = ""
    edit: str = ""  # of a tampered one, with the label's technique, process and rank
    technique: str = ""
    pid: int = -1
    rank: str = ""


def make_folder(folder: Path, count: int, samples: list[Sample] | None = None) -> list[Machine]:
    """Write ``count`` images into ``folder``, the list that names their roles, and the plan; returns the plan."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {sample.name: sample for sample in samples or bundled()}
    wanted = {role: _applying(known[name]) for role, name in ROLES.items()}
    machines = []
    for number, recipe in enumerate(_recipes(count)):
        machine = _make(folder, number, recipe, known, wanted)
        machines.append(machine)
    lines = [f"{folder / machine.file}\t{machine.role}\n" for machine in machines]
    (folder / LIST).write_text("".join(lines), encoding="utf-8")
    (folder / PLAN).write_text(json.dumps([asdict(machine) for machine in machines], indent=1), encoding="utf-8")
    return machines


def read_plan(folder: Path) -> list[Machine]:
    """What :func:`make_folder` wrote."""
    return [Machine(**machine) for machine in json.loads((folder / PLAN).read_bytes())]


def _recipes(count: int) -> list[Recipe]:
    """Which machines there are, in a fixed order in which kinds and roles are mixed."""
    tampered = max(count * _TAMPERED // 200, 2)
    broken = max(count * _BROKEN // 200, 2)
    kinds = ["crashed"] * 2 + ["live"] + ["tampered"] * tampered + ["broken"] * broken
    kinds += ["sound"] * (count - len(kinds))
    roles = itertools.cycle(ROLES)
    made = [Recipe(kind, "web" if kind in ("crashed", "live") else next(roles)) for kind in kinds]
    step = next(step for step in range(count * 5 // 8, 2 * count) if np.gcd(step, count) == 1)
    return [made[number * step % count] for number in range(count)]


def _make(
    folder: Path, number: int, recipe: Recipe, known: dict[str, Sample], wanted: dict[str, Iterator[Made]]
) -> Machine:
    hostname = f"{recipe.role}-{number:03}"
    name = f"{hostname}.kdump"
    about = Machine(file=name, kind=recipe.kind, role=recipe.role)
    if recipe.kind == "broken":
        damage = list(DAMAGES)[number % len(DAMAGES)]
        (folder / name).write_bytes(DAMAGES[damage](known[ROLES[recipe.role]].image_path.read_bytes()))
        return Machine(file=name, kind=recipe.kind, role=recipe.role, edit=damage)
    if recipe.kind in ("crashed", "live"):
        shutil.copyfile(known[_DEAD if recipe.kind == "crashed" else _LIVE].image_path, folder / name)
        return about
    if recipe.kind == "sound":
        copy = Edit(known[ROLES[recipe.role]].analysis)
        _write(folder / name, copy, hostname)
        return Machine(file=name, kind=recipe.kind, role=recipe.role, hostname=hostname)
    edit, copy, label = next(wanted[recipe.role])
    _write(folder / name, copy, hostname)
    return Machine(
        file=name,
        kind=recipe.kind,
        role=recipe.role,
        hostname=hostname,
        edit=edit,
        technique=label.technique,
        pid=label.pid,
        rank=label.rank.value,
    )


class Made(NamedTuple):
    """An edit that was made on a copy of an image."""

    name: str
    copy: Edit
    label: Label


def _applying(sample: Sample) -> Iterator[Made]:
    """The edits that can be made on a sample, one family after the other, again and again."""
    families: dict[str, list[tuple[str, Callable[[Edit], Label]]]] = {}
    for family, name, edit in edits():
        families.setdefault(family, []).append((f"{family}: {name}", edit))
    mixed = [one for several in itertools.zip_longest(*families.values()) for one in several if one is not None]
    # Each role begins elsewhere, so that together they show more of them.
    begin = list(ROLES.values()).index(sample.name) * len(mixed) // len(ROLES)
    for name, edit in itertools.cycle(mixed[begin:] + mixed[:begin]):
        copy = Edit(sample.analysis)
        try:
            label = edit(copy)
        except _NOT_HERE:
            continue
        yield Made(name, copy, label)


def _write(path: Path, copy: Edit, hostname: str) -> None:
    """The image with the edits made so far, as the machine ``hostname``: ``init_uts_ns`` says so."""
    kernel, image = copy.kernel, copy.image()
    at = kernel.symbols.get("init_uts_ns")
    assert at is not None
    copy.write(copy.at("uts_namespace", at, "name.nodename"), hostname.encode().ljust(65, b"\0"))
    whole = io.BytesIO()
    head = Head(vmcoreinfo=image.vmcoreinfo, notes=image.notes, dump_level=FILTERED)
    write_kdump(whole, image.memory, held_frames(image.memory), head, level=_LEVEL)
    path.write_bytes(whole.getvalue())


def main() -> int:
    """Make the folder and say what it holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200)
    args = parser.parse_args()
    machines = make_folder(args.folder.absolute(), args.count)
    for kind in dict.fromkeys(machine.kind for machine in machines):
        sys.stdout.write(f"{sum(machine.kind == kind for machine in machines):4} {kind}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
