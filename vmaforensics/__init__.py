"""vmaforensics cross-checks every record a Linux kernel keeps of a process's memory map.

>>> import vmaforensics
>>> document = vmaforensics.analyse("vmcore")
>>> [(finding.severity, finding.rule, finding.pid) for finding in document.findings]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.version import __version__

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Mapping, Sequence

    from vmaforensics.progress import Progress
    from vmaforensics.report.document.document import Document
    from vmaforensics.report.document.findings import Finding


__all__ = ["Document", "Finding", "__version__", "analyse", "load", "render"]


def analyse(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    views: Collection[str] | None = None,
    sha256: bool = False,
    progress: Progress | None = None,
) -> Document:
    """Cross-check every process's memory map in the image at ``path``; of a split dump, the paths of all parts.

    ``views`` picks among the records that cost time ("slab", "sources", "anchors", "handles", "page-tables",
    "text", "rmap", "frames"); all are read by default. ``sha256`` has the file hashed too. ``progress`` is called with
    the name of each stage as it begins, and while memory is searched with the bytes done and the bytes to do.

    Raises the errors of :mod:`vmaforensics.errors`; what is merely missing is in ``Document.not_assessed``.

    >>> document = vmaforensics.analyse("vmcore")
    >>> document.table("regions")[["pid", "start", "end", "name"]]
    """
    from functools import partial

    from vmaforensics.analysis import analyse_image
    from vmaforensics.progress import unheard
    from vmaforensics.report.document.build import build_document
    from vmaforensics.views.gather import EXTRA

    say = progress or unheard
    analysis = analyse_image(path, views=EXTRA if views is None else views, progress=say)
    say("document")
    analysis.image.memory.watch = partial(say, "hash")
    return build_document(analysis, sha256=sha256)


def load(path: str | os.PathLike[str]) -> Document:
    """The report that ``vmaforensics report --format json`` saved at ``path``.

    Raises :class:`~vmaforensics.errors.VmaForensicsError` if it is not such a report, or of a newer schema.
    """
    from pathlib import Path

    from vmaforensics.report.document.saved import load as load_saved

    return load_saved(Path(path))


def render(document: Document, form: str = "text", options: Mapping[str, object] | None = None) -> bytes:
    """``document`` in one of the formats of ``vmaforensics report --format``; ``options`` are the renderer's own.

    >>> Path("case.html").write_bytes(vmaforensics.render(document, "html"))
    """
    from vmaforensics.report.formats.render import render as render_as

    return render_as(document, form, options)


def __getattr__(name: str) -> object:
    # The document's classes take a while to load, and most commands do without.
    if name in ("Document", "Finding"):
        from vmaforensics.report.document import document

        found: object = getattr(document, name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
