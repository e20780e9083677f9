"""What a report of an image would lack: the part of ``doctor`` that looks at one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.errors import VmaForensicsError
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from vmaforensics.analysis import Analysis
    from vmaforensics.image.image import Image
    from vmaforensics.progress import Progress

Line = tuple[str, str]  # a state, and a sentence

# Bits of makedumpfile's dump level (makedumpfile(8), -d), and what a report lacks without those pages. Zero pages
# (1) and free ones (16) cost it nothing.
_LEFT_OUT = (
    (2, "page cache", "contents of mapped files, and so comparisons with them"),
    (4, "page cache with private data", "contents of mapped files on some filesystems"),
    (8, "pages of programs", "contents of memory that findings name; `extract` writes zeros"),
)


def examine(args: argparse.Namespace, progress: Progress) -> tuple[list[Line], VmaForensicsError | None]:
    """What can be said of the image of ``args``, and the error that a report of it would end with, if any."""
    from vmaforensics.analysis import analyse_image
    from vmaforensics.cli.arguments import opened

    lines: list[Line] = []
    try:
        image = opened(args, progress)
        lines += _image(image)
        analysis = analyse_image(image, progress=progress)
    except VmaForensicsError as error:
        lines.append(("FAILS", "a report would end with the error below"))
        return lines, error
    return [*lines, *_analysis(analysis)], None


def _image(image: Image) -> Iterator[Line]:
    from vmaforensics.report.document.provenance import coverage

    yield "ok", f"{image.path}: format {image.format}, {image.size} bytes"
    pages = coverage(image)
    share = (pages.present + pages.zero) / pages.ram if pages.ram else 0.0
    state = "ok" if pages.absent == 0 else "note"
    yield state, f"{pages.present + pages.zero} of {pages.ram} pages of RAM are in it ({share:.0%})"
    level = image.details.get("dump level", "")
    for bit, what, cost in _LEFT_OUT if level.isdecimal() else ():
        if int(level) & bit:
            yield "note", f"dump level {level} leaves out {what}; a report lacks: {cost}"
    if not image.cpus:
        yield "note", "no notes of the CPUs: whether each runs on the page tables of its task is not checked"


def _analysis(analysis: Analysis) -> Iterator[Line]:
    from vmaforensics.report.document.not_assessed import not_assessed

    identity = analysis.kernel.identity
    yield "ok", f"kernel {identity.release}, {identity.levels}-level page tables, build id {identity.build_id or '?'}"
    yield ("ok" if identity.symbols_source else "note"), f"symbols: {identity.symbols_source or 'few'}"
    yield "ok", f"types: {identity.types_source}"
    yield ("ok" if identity.vmcoreinfo_source else "note"), f"VMCOREINFO: {identity.vmcoreinfo_source or 'not found'}"
    yield "ok", f"records read: {', '.join(view.label for view in analysis.views.available())}"
    lacking = not_assessed(analysis)
    for item in lacking:
        yield "note", f"{item.what}{'' if item.pid is None else f' (pid {item.pid})'}: {item.why}"
    if lacking:
        yield "note", f"a report would be incomplete in {counted(len(lacking), 'respect')}"
    else:
        yield "ok", "a report would be complete: every record of these views can be read"
