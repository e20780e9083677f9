"""The document that a command is given: saved, or made from an image now."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from vmaforensics.errors import UsageError
from vmaforensics.progress import unheard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from vmaforensics.image.limits import Limits
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.progress import Progress
    from vmaforensics.report.document.document import Document
    from vmaforensics.scan.document import ScanPart
    from vmaforensics.views.views import Views


def document_of(
    paths: Sequence[Path],
    *,
    views: Sequence[str] | None = None,
    acquired: str | None = None,
    sha256: bool = False,
    symbols: Sequence[Path] | None = None,
    vmlinux: Path | None = None,
    kernel: int | None = None,
    limits: Limits | None = None,
    pids: Sequence[int] | None = None,
    rules: Sequence[Path] = (),
    progress: Progress = unheard,
) -> Document:
    """The report saved in the one file, or that of the image in these. All but ``pids`` and ``limits`` need the image;
    ``rules`` are files of YARA rules. With ``pids`` an image's is made for those processes alone; a saved one is left
    whole.

    Raises the errors of reading either, and :class:`UsageError` where what is asked for needs the image.
    """
    from vmaforensics.analysis import analyse_image
    from vmaforensics.checks.acquisition import Acquired
    from vmaforensics.image.limits import Limits, cores
    from vmaforensics.image.open import open_image
    from vmaforensics.report.document.build import build_document
    from vmaforensics.report.document.saved import is_saved, load
    from vmaforensics.views.gather import EXTRA

    saved = [path for path in paths if is_saved(path)]
    if not saved:
        image = replace(open_image(paths, progress), symbols=symbols, kernel=kernel)
        given = None if acquired is None else Acquired(acquired)
        limits = limits or Limits(jobs=cores())
        image.memory.limit(limits)
        scanned = None if not rules else _scanner(rules, pids, limits.jobs, progress)
        analysis = analyse_image(
            image, views=EXTRA if views is None else views, acquired=given, vmlinux=vmlinux, progress=progress
        )
        scan = None if scanned is None else scanned(analysis.kernel, analysis.views)
        progress("document")
        image.memory.watch = partial(progress, "hash")
        return build_document(analysis, pids=pids, sha256=sha256, scan=scan)
    if len(paths) > 1:
        raise UsageError(f"{saved[0]} is a saved report; it is given alone, not with the parts of an image")
    asked = {"--views": views is not None, "--acquired": acquired is not None, "--kernel": kernel is not None}
    files = {
        "--yara": bool(rules),
        "--sha256": sha256,
        "--symbols": symbols is not None,
        "--vmlinux": vmlinux is not None,
    }
    for option, wanted in (asked | files).items():
        if wanted:
            raise UsageError(f"{option} needs the image, and {saved[0]} is a saved report: give the image instead")
    return load(saved[0])


def _scanner(
    rules: Sequence[Path], pids: Sequence[int] | None, jobs: int, progress: Progress
) -> Callable[[Kernel, Views], ScanPart]:
    """What scans an image with the ``rules``, which are compiled at once: a mistake in them is said before any work."""
    from vmaforensics.scan.rules import compile_rules
    from vmaforensics.scan.scan import Request, scan_image
    from vmaforensics.scan.worker import Settings

    compiled = compile_rules(rules)
    request = Request(rules=compiled, pids=pids, jobs=jobs, settings=Settings(rules=compiled.serialized))
    return lambda kernel, views: scan_image(kernel, views, request, progress)
