"""Scans a plan with several processes, or in this one. What comes back is in the order of the plan."""

from __future__ import annotations

import gc
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

from vmaforensics.scan.plan import batches
from vmaforensics.scan.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.progress import Progress
    from vmaforensics.scan.plan import PlanPages, Stretches
    from vmaforensics.scan.worker import Scanned, Settings

_BATCH = 1 << 13  # pages that are located together: 32 MiB
_worker: Worker | None = None  # of this process
_PLAN: dict[str, tuple[Kernel, Stretches, PlanPages, Settings]] = {}  # what processes that are forked find


def scan_plan(
    kernel: Kernel, stretches: Stretches, pages: PlanPages, settings: Settings, jobs: int, progress: Progress
) -> Iterator[Scanned]:
    """What was found in each stretch, in order; see :meth:`Worker.scan`."""
    if not len(stretches):
        return
    parts = batches(stretches, _BATCH)
    total = len(pages) * kernel.arch.page_size
    share = total // len(parts)
    if jobs == 1 or len(parts) == 1:
        worker = Worker(kernel, stretches, pages, settings)
        for number, part in enumerate(parts):
            progress("scan", number * share, total)
            yield from worker.scan(part)
        return
    # Processes are forked: the image and the views are theirs without being sent.
    _PLAN["now"] = (kernel, stretches, pages, settings)
    gc.freeze()
    try:
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"), _begin) as pool:
            for number, found in enumerate(pool.map(_scan, parts)):
                progress("scan", number * share, total)
                yield from found
    finally:
        _PLAN.clear()


def _begin() -> None:
    global _worker
    _worker = Worker(*_PLAN["now"])


def _scan(part: slice) -> list[Scanned]:
    assert _worker is not None
    return list(_worker.scan(part))
