"""Folders of code: an ELF file that was rebuilt, or all that can be executed, with a manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from vmaforensics.compare.known_regions import known_regions
from vmaforensics.compare.ranges import mm_of
from vmaforensics.export.code_regions import extract_code
from vmaforensics.export.elf.rebuild import rebuild
from vmaforensics.export.extract import MANIFEST
from vmaforensics.export.user_memory import UserMemory
from vmaforensics.export.whole_file import whole_file
from vmaforensics.version import __version__
from vmaforensics.words.amounts import amount, counted
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views

_MOST_LINES = 64


def write_elf(
    kernel: Kernel, views: Views, folder: Path, pid: int, address: int, facts: dict[str, object]
) -> list[str]:
    """Write the ELF file that ``address`` of a process lies in; lines that tell of it.

    Raises :class:`UsageError` where there is none.
    """
    mm = mm_of(views, pid)
    memory = UserMemory(kernel, views, known_regions(views, [mm]))
    found = rebuild(memory, address, kernel.arch.page_size)
    file = f"{max(pid, 0)}-{found.header:x}.elf"
    with whole_file(folder / file) as stream:
        stream.write(found.data.data)
    _manifest(kernel, folder, {**facts, "pid": pid, "mm": hex(mm), "files": [found.manifest(file)]})
    pages = sum(int(str(part["pages"])) for part in found.segments)
    missing = sum(int(str(part["missing"])) for part in found.segments)
    name = f" of {found.name}" if found.name else ""
    told = (
        f"{file}: {found.headers.bits}-bit ELF {found.headers.kind}{name}, loaded at {found.base:#x}; "
        f"{counted(len(found.segments), 'segment')}, {counted(pages, 'page')}, {missing:,} missing\n"
        f"  sha256 {found.sha256}{f', build id {found.build_id}' if found.build_id else ''}\n"
    )
    return [told]


def write_code(
    kernel: Kernel, views: Views, folder: Path, pid: int | None, most: int, facts: dict[str, object]
) -> list[str]:
    """Write all executable memory of a process, None for all; lines that tell of it."""
    mms = None if pid is None else [mm_of(views, pid)]
    found = extract_code(kernel, views, folder, mms=mms, most=most)
    _manifest(kernel, folder, {**facts, **found.manifest()})
    lines = []
    for part in sorted(found.contents, key=lambda content: not any(owner["hidden"] for owner in content.owners)):
        owner = part.owners[0]
        more = len(part.owners) + part.more_owners - 1
        others = f" and {counted(more, 'other region')}" if more else ""
        hidden = "hidden " if owner["hidden"] else ""
        lines.append(
            f"{part.file}: {hidden}{owner['perms']} {owner['start']}-{owner['end']} {owner['name']} "
            f"of pid {owner['pid']} ({owner['comm']}){others}\n"
        )
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES:] = [f"and {counted(len(lines) - _MOST_LINES, 'more file')}\n"]
    total = sum(part.size for part in found.contents)
    lines.append(
        f"{counted(found.regions, 'executable region')}, {counted(len(found.contents), 'content')} of {amount(total)}; "
        f"{len(found.left_out):,} not written\n"
    )
    return lines


def _manifest(kernel: Kernel, folder: Path, facts: dict[str, object]) -> None:
    head = {"tool": "vmaforensics", "version": __version__, "kernel": printable(kernel.identity.release)}
    with whole_file(folder / MANIFEST) as stream:
        stream.write(msgspec.json.format(msgspec.json.encode({**head, **facts}), indent=1) + b"\n")
