"""Everything from an image to findings, in one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmaforensics.checks.context import Context
from vmaforensics.checks.weigh import run_checks
from vmaforensics.image.image import Image
from vmaforensics.image.open import open_image
from vmaforensics.kernel.find import find_kernel
from vmaforensics.progress import unheard
from vmaforensics.views.gather import EXTRA, gather_views

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Sequence

    from vmaforensics.checks.acquisition import Acquired
    from vmaforensics.checks.finding import Finding
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.kernel.reference import ReferenceKernel
    from vmaforensics.progress import Progress
    from vmaforensics.views.views import Views


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """An image, its kernel, what every view says, and where they disagree."""

    image: Image
    kernel: Kernel
    views: Views
    context: Context  # what the checks worked out on the way
    findings: list[Finding]


def analyse_image(
    image: Image | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    views: Collection[str] = EXTRA,
    acquired: Acquired | None = None,
    vmlinux: str | os.PathLike[str] | None = None,
    progress: Progress = unheard,
) -> Analysis:
    """Cross-check every process's memory map in ``image``: a path, the paths of a split dump, or an opened image.

    ``views`` picks among the views that are not needed to list VMAs; see ``gather_views``. ``acquired``
    overrules what the clocks of the image say of how it was taken. ``vmlinux`` is the file that its kernel was booted
    from (vmlinux or vmlinuz): with it, all of the kernel's code is compared. ``progress`` is given how far
    the analysis has come.

    Raises the errors of :mod:`vmaforensics.errors`: for a file that is no image, an image without a Linux
    kernel, a kernel without symbols or types. What is merely missing is listed in the result instead.
    """
    opened = image if isinstance(image, Image) else open_image(image)

    def heard(stage: str, done: int = 0, total: int = 0, /) -> None:
        # What one stage read, the next seldom reads again; mapped pages would count as this process's to the end.
        opened.release()
        progress(stage, done, total)

    kernel = find_kernel(opened, progress)
    reference = None if vmlinux is None else _reference(vmlinux, kernel)
    gathered = gather_views(kernel, opened.cpus, views, heard, reference=reference)
    heard("checks")
    context = Context(gathered, acquired)
    return Analysis(image=opened, kernel=kernel, views=gathered, context=context, findings=run_checks(context))


def _reference(vmlinux: str | os.PathLike[str], kernel: Kernel) -> ReferenceKernel:
    # Loaded when it is asked for, as what reads ELF files is.
    from vmaforensics.kernel.reference import read_reference, require_same_build

    reference = read_reference(vmlinux, kernel.arch)
    require_same_build(reference, kernel.identity.build_id)
    return reference
