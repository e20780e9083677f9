"""Everything that can be executed, as files: each content once, with everyone who has it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.compare.known_regions import executable, known_regions
from vmaforensics.export.page_source import STATES, PageSources
from vmaforensics.export.region_pages import region_pages
from vmaforensics.export.user_memory import pieces_of_bytes
from vmaforensics.export.whole_file import whole_file
from vmaforensics.words.permissions import entry_permissions, vma_permissions
from vmaforensics.words.printable import comm_of, printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vmaforensics.compare.known_regions import KnownRegions
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views

MOST_REGION = 1 << 30  # bytes of one region
_MOST_OWNERS = 1024  # regions named of one content
_NAMES = tuple(STATES)


@dataclass(slots=True, kw_only=True)
class Content:
    """One content of executable memory, and whose it is."""

    file: str
    sha256: str
    size: int
    pages: dict[str, int]  # by state
    owners: list[dict[str, object]] = field(default_factory=list)
    more_owners: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractedCode:
    """What was written, and what was not."""

    contents: list[Content]
    left_out: list[dict[str, object]]
    regions: int

    def manifest(self) -> dict[str, object]:
        """For the manifest."""
        parts = [
            {
                "file": part.file,
                "sha256": part.sha256,
                "size": part.size,
                "pages": part.pages,
                "owners": part.owners,
                "more_owners": part.more_owners,
            }
            for part in self.contents
        ]
        return {"states": STATES, "regions": self.regions, "contents": parts, "left_out": self.left_out}


def extract_code(
    kernel: Kernel, views: Views, folder: Path, *, mms: Sequence[int] | None = None, most: int
) -> ExtractedCode:
    """Write every executable region of ``mms`` (None: of every process) into ``folder``, no content twice.

    A file is called by the hash of its content. At most ``most`` bytes are written, and no region of more than
    ``MOST_REGION``; what that leaves out is listed. Regions without any byte in the image are listed, not written.
    """
    every = known_regions(views, mms)
    regions = every.take(executable(views, every))
    by_pages: dict[bytes, Content] = {}
    by_hash: dict[str, Content] = {}
    left_out: list[dict[str, object]] = []
    written = 0
    for row in range(len(regions.rows)):
        size = int(regions.rows.end[row]) - int(regions.rows.start[row])
        owner = _owner(views, regions, row)
        if size > MOST_REGION:
            left_out.append({**owner, "why": f"the region has {size} bytes"})
            continue
        pages = _all_pages(kernel, views, regions, row)
        owner["missing"] = int((~pages.known).sum())
        if not pages.has_bytes.any():
            left_out.append({**owner, "why": "none of its bytes is in the image"})
            continue
        # The same frames in the same order are the same bytes: most regions need not be read.
        key = hashlib.blake2b(np.where(pages.has_bytes, pages.pfn, np.uint64(0)).tobytes()).digest()
        content = by_pages.get(key)
        if content is None:
            digest = hashlib.sha256()
            for piece in pieces_of_bytes(kernel, pages):
                digest.update(piece.data)
            content = by_hash.get(digest.hexdigest())
            if content is None:
                if written + size > most:
                    left_out.append({**owner, "why": f"more than {most} bytes; see --max"})
                    continue
                content = _write(kernel, folder, pages, digest.hexdigest())
                written += size
                by_hash[content.sha256] = content
            by_pages[key] = content
        if len(content.owners) < _MOST_OWNERS:
            content.owners.append(owner)
        else:
            content.more_owners += 1
    return ExtractedCode(contents=list(by_hash.values()), left_out=left_out, regions=len(regions.rows))


def _all_pages(kernel: Kernel, views: Views, regions: KnownRegions, row: int) -> PageSources:
    """The pages of a region, those of pieces without entries too."""
    shift = kernel.arch.page_shift
    parts = []
    for piece in region_pages(kernel, views, regions, row):
        if piece.pages is not None:
            parts.append(piece.pages)
        else:
            count = (piece.end - piece.start) >> shift
            parts.append(PageSources.of(address=np.zeros(count, np.uint64), state=np.full(count, piece.state)))
    return PageSources.concatenate(parts)


def _write(kernel: Kernel, folder: Path, pages: PageSources, sha256: str) -> Content:
    name = f"{sha256}.bin"
    with whole_file(folder / name) as stream:
        for piece in pieces_of_bytes(kernel, pages):
            stream.write(piece.data)
    counts = np.bincount(pages.state, minlength=len(_NAMES)).tolist()
    return Content(
        file=name,
        sha256=sha256,
        size=len(pages) << kernel.arch.page_shift,
        pages={state: count for state, count in zip(_NAMES, counts, strict=True) if count},
    )


def _owner(views: Views, regions: KnownRegions, row: int) -> dict[str, object]:
    """Whose a region is, and which records show it."""
    rows = regions.rows
    mm_row = int(rows.mm_row[row])
    vma = int(rows.vma[row])
    return {
        "pid": int(rows.pid[row]),
        "comm": printable(comm_of(views.mms.comm[mm_row])) if mm_row >= 0 else "",
        "mm": hex(int(rows.mm[row])),
        "start": hex(int(rows.start[row])),
        "end": hex(int(rows.end[row])),
        "perms": vma_permissions(int(rows.flags[row])) if vma else entry_permissions(int(rows.allow[row])),
        "name": printable(regions.name(row)),
        "hidden": bool(rows.hidden[row]),
        "shown_by": list(regions.records(row)),
        "missing_in": list(regions.lacking(row)),
    }
