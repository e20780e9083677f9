"""vmaforensics cross-checks every record a Linux kernel keeps of a process's memory map."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from vmaforensics.report.document import Document

__version__ = "0.1.0"
__all__ = ["analyse"]


def analyse(path: str | os.PathLike[str]) -> Document:
    """Cross-check every process's memory map in the image at ``path``.

    Raises the errors of :mod:`vmaforensics.errors`; what is merely missing is in ``Document.not_assessed``.

    >>> document = vmaforensics.analyse("vmcore")
    >>> [(one.severity, one.rule, one.pid) for one in document.findings]
    """
    from vmaforensics.analysis import analyse_image
    from vmaforensics.report.build import build_document

    return build_document(analyse_image(path))
