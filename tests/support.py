"""Images of real kernels with what the guest itself said, and analyses of changed copies of them."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from vmaforensics.analysis import Analysis, analyse_image
from vmaforensics.checks.context import Context
from vmaforensics.checks.registry import rule_modules
from vmaforensics.checks.weigh import run_checks
from vmaforensics.image.open import open_image
from vmaforensics.kernel.edit import Edit as KernelEdit
from vmaforensics.kernel.space.kernel_space import KernelSpace
from vmaforensics.views.gather import gather_views

if TYPE_CHECKING:
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.table import Table
    from vmaforensics.image.image import Image
    from vmaforensics.image.memory import PhysicalMemory
    from vmaforensics.kernel.kernel import Kernel

ROOT = Path(__file__).parents[1]
_BUILT = ("debian-5.10", "debian-6.1", "debian-6.1-la57", "debian-6.12", "debian-7.3")
# Kernels with encodings of their own that no bundled sample has; looked at where the recipe has made them.
_FURTHER = ("debian-6.1-pti", "debian-6.16", "debian-7.2")
# Guests that keep files in queues and rings, and run code that was changed; see guest/kept.c of the recipe.
_KEPT = ("debian-5.10-kept", "debian-6.1-kept", "debian-6.12-kept", "debian-7.3-kept")
PAGE = 4096


class Truth(Mapping[str, bytes]):
    """The members of a truth archive by name, without a leading ``./``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _members(self) -> dict[str, bytes]:
        members = {}
        with tarfile.open(self.path) as tar:
            for entry in tar:
                stream = tar.extractfile(entry) if entry.isfile() else None
                # smaps is half of an archive, and no test reads it.
                if stream is not None and not entry.name.endswith("/smaps"):
                    members[entry.name.removeprefix("./")] = stream.read()
        return members

    def __getitem__(self, name: str) -> bytes:
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def pids(self) -> list[int]:
        """Every process, the one that captured the truth too."""
        return sorted({int(hit[1]) for name in self if (hit := re.match(r"proc/(\d+)/", name))})

    @property
    def capturing(self) -> int:
        """The process that wrote the archive, and whose own memory changed meanwhile."""
        return int(self["capturing"])

    def status(self, pid: int) -> dict[str, str]:
        """/proc/PID/status, by label."""
        lines = self[f"proc/{pid}/status"].decode("latin-1").split("\n")
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


@dataclass(kw_only=True)
class Sample:
    """A clean image of a guest, with its truth."""

    name: str
    image_path: Path
    truth: Truth
    edit: dict[str, str | int] | None = None  # what was done to the image, if it is not clean
    manifest: dict[str, Any] = field(default_factory=dict)  # of a bundled one

    @cached_property
    def analysis(self) -> Analysis:
        """The analysis of the unchanged image, with the symbol file that lies beside it; made once per session."""
        beside = self.image_path.with_suffix(".vmlinux")
        return analyse_image(
            dataclasses.replace(open_image(self.image_path), symbols=beside if beside.exists() else None)
        )


def bundled() -> list[Sample]:
    """The samples that come with the sources, of every kind; or others, made anew, from VMAFORENSICS_SAMPLES."""
    found = []
    where = Path(os.environ.get("VMAFORENSICS_SAMPLES", ROOT / "samples"))
    for path in sorted(where.glob("*/image.kdump")):
        manifest = json.loads((path.parent / "manifest.json").read_bytes())
        truth = Truth(path.parent / "truth.tar.xz")
        found.append(
            Sample(name=path.parent.name, image_path=path, truth=truth, edit=manifest.get("edit"), manifest=manifest)
        )
    return found


def built(*names: str) -> list[Sample]:
    """Those of the recipe's images that have been made here."""
    pairs = ((ROOT / f"build/images/{name}.elf", ROOT / f"build/images/{name}.truth.tar") for name in names)
    return [
        Sample(name=path.stem, image_path=path, truth=Truth(truth))
        for path, truth in pairs
        if path.exists() and truth.exists()
    ]


TAMPERED = [sample for sample in bundled() if sample.edit]
# Guests that died of what was done to them, and memory that was read while its guest ran: neither is at rest.
CRASHED = [sample for sample in bundled() if "death" in sample.manifest]
LIVE = [sample for sample in bundled() if "live" in sample.manifest]
RESTING = [sample for sample in bundled() if not {"death", "live"} & sample.manifest.keys()]
SAMPLES = [sample for sample in RESTING if not sample.edit] or built(*_BUILT)
FURTHER = built(*_FURTHER)
KEPT = built(*_KEPT)
HOLDERS = built(*(f"debian-{series}-holders" for series in ("5.10", "6.1", "6.12", "7.3")))
WHOLE = built("debian-5.10", "debian-6.1", "debian-6.12", *_FURTHER, "debian-7.3")
# Excerpts hold no user memory, nor free pages.
needs_user_memory = pytest.mark.skipif(
    not WHOLE, reason="no whole image of the recipe, and excerpts hold no user memory"
)
NO_SAMPLE = "no image of a real kernel: neither samples/*/image.kdump nor build/images/debian-*.elf with its truth"


def with_memory(image: Image, memory: PhysicalMemory, **changes: object) -> Image:
    """``image`` with another memory."""
    return dataclasses.replace(image, memory=memory, **changes)  # type: ignore[arg-type]


def again(clean: Analysis, memory: PhysicalMemory, **changes: object) -> Analysis:
    """Analyse a changed copy of an image from the beginning."""
    return analyse_image(with_memory(clean.image, memory, **changes))


def again_from_views(clean: Analysis, memory: PhysicalMemory) -> Analysis:
    """Analyse a changed copy without finding the kernel anew: faster, for changes that leave it alone."""
    kernel = kernel_on(clean.kernel, memory)
    views = gather_views(kernel, clean.image.cpus)
    image = with_memory(clean.image, memory)
    context = Context(views)
    return Analysis(image=image, kernel=kernel, views=views, context=context, findings=run_checks(context))


def findings_of(context: Context, *chapters: str) -> list[Finding]:
    """What the rules of these chapters of ``checks/`` find, neither weighed nor joined."""
    return [finding for module in rule_modules() if module.chapter in chapters for finding in module.check(context)]


def kernel_on(kernel: Kernel, memory: PhysicalMemory) -> Kernel:
    """``kernel`` reading from another memory."""
    other = copy.copy(kernel)
    other.memory, other.space = memory, KernelSpace(memory, kernel.space.runs)
    other.forget()
    other.identity = dataclasses.replace(kernel.identity, problems=[*kernel.identity.problems])
    return other


class Edit(KernelEdit):
    """A copy of an analysed image to write to and to take pages from, by kernel address."""

    def __init__(self, clean: Analysis) -> None:
        super().__init__(clean.image, clean.kernel)
        self.clean = clean
        self.views = clean.views

    def again(self) -> Analysis:
        """Analyse the copy from the beginning."""
        return analyse_image(self.image())


def serious(analysis: Analysis) -> list[tuple[str, str, int, str]]:
    """What an analysis says that is more than information."""
    return [
        (finding.severity.value, finding.rule.id, finding.pid, finding.title)
        for finding in analysis.findings
        if finding.severity.value != "info"
    ]


Row = SimpleNamespace  # a row of a table, for tests that look at one thing after another: its columns as attributes


def row_at(table: Table, row: int) -> Row:
    """A row of a table as plain numbers and bytes; of a wide column, an array."""
    (found,) = rows_in(table.take(slice(row, row + 1)))
    return found


def rows_in(table: Table) -> list[Row]:
    """Every row of a table; see :func:`row_at`."""
    names = list(table.columns())
    columns = [values.tolist() if values.ndim == 1 else list(values) for values in table.columns().values()]
    return [Row(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]


def needs_symbol(sample: Sample, name: str) -> int:
    """Address of a symbol; skips where the image does not hold what lies there."""
    kernel = sample.analysis.kernel
    at = kernel.symbols.get(name)
    assert at is not None
    if not kernel.space.gather(np.array([at], np.uint64), 8)[1][0]:
        pytest.skip(f"this excerpt does not hold {name}")
    return at


def leader(analysis: Analysis, pid: int) -> Row:
    """The task row of a process."""
    tasks = analysis.views.tasks
    return row_at(tasks, int(np.flatnonzero(tasks.leader & (tasks.pid == pid))[0]))


def mm_of(analysis: Analysis, pid: int) -> int:
    """Address of the ``mm_struct`` of a process."""
    return int(leader(analysis, pid).mm)
