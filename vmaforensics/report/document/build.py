"""Turns an analysis into a result document."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from vmaforensics.checks.bounds import bounded
from vmaforensics.checks.registry import rule_modules
from vmaforensics.crash.guard import guarded
from vmaforensics.crash.quiet import crash_time_of
from vmaforensics.kernel.machine import hostname, read_clock
from vmaforensics.report.document.acquired import acquired_part
from vmaforensics.report.document.crash_short import crash_part
from vmaforensics.report.document.document import Document
from vmaforensics.report.document.finding_parts import finding_parts
from vmaforensics.report.document.memory_maps import memory_maps
from vmaforensics.report.document.not_assessed import not_assessed
from vmaforensics.report.document.parts import ImageFacts, KernelFacts, Schema
from vmaforensics.report.document.process_parts import process_parts
from vmaforensics.report.document.provenance import provenance
from vmaforensics.report.document.road_part import CHAPTER, RoadPart, road_part
from vmaforensics.views.processes.tasks import PF_KTHREAD
from vmaforensics.words.printable import printable
from vmaforensics.words.times import utc

if TYPE_CHECKING:
    from collections.abc import Collection

    from vmaforensics.analysis import Analysis
    from vmaforensics.image.image import Image
    from vmaforensics.kernel.machine import Clock
    from vmaforensics.scan.document import ScanPart


def build_document(
    analysis: Analysis,
    *,
    pids: Collection[int] | None = None,
    sha256: bool = False,
    contents: bool = True,
    log: bool = True,
    scan: ScanPart | None = None,
) -> Document:
    """The document of an analysis; with ``pids`` that of those processes only.

    Without ``contents`` no byte of a process's own memory is read, without ``log`` none of the kernel's log.
    ``scan`` is what a scan of the same image found.
    """
    clock = read_clock(analysis.kernel)
    chosen = bounded(finding for finding in analysis.findings if pids is None or finding.pid in pids)
    maps, left_out = memory_maps(analysis.kernel, analysis.views, chosen, pids)
    crash = guarded(analysis.kernel, "crash", lambda: crash_part(analysis), None) if log else None
    return Document(
        schema=Schema(),
        image=_image(analysis.image),
        kernel=_kernel(analysis, clock),
        processes=process_parts(analysis, pids, clock),
        findings=finding_parts(analysis, chosen, contents=contents),
        maps=maps,
        acquired=acquired_part(analysis),
        maps_left_out=left_out,
        not_assessed=not_assessed(analysis),
        provenance=provenance(analysis, sha256=sha256),
        road=_road(analysis),
        crash=crash,
        scan=scan,
    )


def _road(analysis: Analysis) -> RoadPart | None:
    rules = [module.rule.id for module in rule_modules() if module.chapter == CHAPTER]
    return road_part(analysis.views.road, analysis.findings, rules)


def _image(image: Image) -> ImageFacts:
    ranges = image.memory.ranges.tolist()
    return ImageFacts(
        page_size=image.memory.page_size,
        ram=hex(sum(end - start for start, end in ranges)),
        ranges=tuple((hex(start), hex(end)) for start, end in ranges[:1024]),
    )


def _kernel(analysis: Analysis, clock: Clock | None) -> KernelFacts:
    """What the document says of the kernel; texts out of the image are made printable."""
    identity, tasks = analysis.kernel.identity, analysis.views.tasks
    kernel_threads = int((tasks.leader & tasks.ok & ((tasks.flags & PF_KTHREAD) != 0)).sum())
    return KernelFacts(
        release=printable(identity.release),
        banner=printable(identity.banner),
        build_id=None if identity.build_id is None else printable(identity.build_id),
        architecture=analysis.kernel.arch.name,
        page_table_levels=identity.levels,
        page_table_isolation=identity.isolation,
        kaslr_offset=None if identity.kaslr_offset is None else hex(identity.kaslr_offset),
        phys_base=identity.phys_base,
        processes=int(tasks.leader.sum()) - kernel_threads,
        threads=len(tasks),
        kernel_threads=kernel_threads,
        hostname=printable(hostname(analysis.kernel) or b""),
        booted=None if clock is None else utc(clock.booted // 10**9),
        clock=None if clock is None else utc(clock.now),
        crashed=crash_time_of(analysis.kernel),
        address_spaces=len(analysis.views.mms),
        views=tuple(view.label for view in analysis.views.available()),
    )


def decode(raw: bytes) -> Document:
    """Read a saved document. Raises ``msgspec.ValidationError`` if it is not one."""
    return msgspec.json.decode(raw, type=Document)
