"""The trails of a case: views and rules are asked only where a complaint may concern memory maps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vmaforensics.checks.context import Context
from vmaforensics.checks.weigh import run_checks
from vmaforensics.crash.trail.beside import findings_beside
from vmaforensics.crash.trail.follow import concern_memory, follow
from vmaforensics.crash.trail.records import Records
from vmaforensics.errors import KernelNotFoundError, MemoryReadError
from vmaforensics.views.gather import gather_views

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vmaforensics.checks.finding import Finding
    from vmaforensics.crash.complaints import Complaint
    from vmaforensics.crash.trail.word import Trail
    from vmaforensics.image.image import Image
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.progress import Progress
    from vmaforensics.views.views import Views


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What complaints lead to, by the row of each in the log; those that were not followed are not there."""

    trails: Mapping[int, Trail] = field(default_factory=dict)
    findings: Mapping[int, Sequence[Finding]] = field(default_factory=dict)
    problem: str | None = None  # why the records could not be asked


def follow_case(image: Image, kernel: Kernel, complaints: Sequence[Complaint], progress: Progress) -> Followed:
    """Read the views, if a complaint needs them, and follow each complaint."""
    if not concern_memory(complaints):
        return Followed()
    try:
        views = gather_views(kernel, image.cpus, progress=progress)
        progress("checks")
        return follow_in(kernel, views, run_checks(Context(views)), complaints)
    except (KernelNotFoundError, MemoryReadError) as error:
        return Followed(problem=str(error))


def follow_in(kernel: Kernel, views: Views, findings: Sequence[Finding], complaints: Sequence[Complaint]) -> Followed:
    """Follow each complaint through ``views``, with the ``findings`` made of them."""
    if not concern_memory(complaints):
        return Followed()
    records = Records(kernel, views)
    trails = follow(records, complaints)
    beside = {
        complaint.row: findings_beside(records, complaint, trails[complaint.row], findings)
        for complaint in complaints
        if complaint.row in trails
    }
    return Followed(trails=trails, findings=beside)
