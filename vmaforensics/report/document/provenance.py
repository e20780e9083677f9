"""Where the facts of a report come from: the file, how much of the memory it holds, the program and its sources."""

from __future__ import annotations

import hashlib
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from vmaforensics.image.placed import PageState
from vmaforensics.report.document.parts import Coverage, FileFacts, Provenance
from vmaforensics.version import __version__
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vmaforensics.analysis import Analysis
    from vmaforensics.image.image import Image

# What the program is called that is installed, and its module: that knows its version without a search.
_DEPENDENCIES = {
    "numpy": "numpy",
    "construct": "construct",
    "pyelftools": "elftools",
    "zstandard": "zstandard",
    "msgspec": "msgspec",
}


def provenance(analysis: Analysis, *, sha256: bool) -> Provenance:
    """Where the facts come from; with ``sha256`` the file is read whole and hashed."""
    image, identity = analysis.image, analysis.kernel.identity
    return Provenance(
        tool="vmaforensics",
        version=__version__,
        python=sys.version.split()[0],
        dependencies={name: import_module(module).__version__ for name, module in _DEPENDENCIES.items()},
        file=FileFacts(
            path=printable(str(image.path)),
            size=image.size,
            format=image.format,
            sha256=_sha256(image.path, image.memory.watch) if sha256 else None,
            details={printable(key): printable(value) for key, value in _details(image, sha256).items()},
        ),
        coverage=coverage(image),
        vmcoreinfo=identity.vmcoreinfo_source,
        symbols=identity.symbols_source,
        types=identity.types_source,
        translation=identity.translation_source,
    )


def _details(image: Image, sha256: bool) -> dict[str, str]:
    """Those of the image, and the further files of a split dump, with their hashes if asked for."""
    details = dict(image.details)
    for number, path in enumerate(image.others, 2):
        details[f"part {number}"] = str(path)
        if sha256:
            details[f"part {number} sha256"] = _sha256(path, image.memory.watch)
    return details


def _sha256(path: Path, watch: Callable[[int, int], None] | None) -> str:
    digest, done, size = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as stream:
        while block := stream.read(1 << 24):
            digest.update(block)
            done += len(block)
            if watch is not None:
                watch(done, size)
    return digest.hexdigest()


def coverage(image: Image) -> Coverage:
    """Pages of RAM by state."""
    counts = image.memory.frame_counts()
    present, zero, absent = (int(counts[state]) for state in (PageState.PRESENT, PageState.ZERO, PageState.ABSENT))
    return Coverage(ram=present + zero + absent, present=present, zero=zero, absent=absent)
