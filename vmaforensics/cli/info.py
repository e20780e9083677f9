"""``vmaforensics info``: what is this image, and which kernel does it hold?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from vmaforensics.cli.arguments import add_image, opened
from vmaforensics.errors import ExitCode, KernelNotFoundError, MemoryReadError, VmaForensicsError
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from vmaforensics.image.image import Image
    from vmaforensics.kernel.kernel import Kernel


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser("info", help="say in a screenful what the image holds and what is missing")
    add_image(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what can be found out; a kernel that cannot be found is the last line and the exit code."""
    from vmaforensics.cli.progress import watched
    from vmaforensics.kernel.find import find_kernel
    from vmaforensics.words.printable import printable

    with watched(args) as say:
        image = opened(args, say)
    failure: VmaForensicsError | None = None
    kernel: Kernel | None = None
    found: list[tuple[str, str]] = []
    try:
        with watched(args) as say:
            kernel = find_kernel(image, say)
        found = list(_kernel(kernel))
    except KernelNotFoundError as error:
        failure = error
    rows = [*_image(image), *found]  # the kernel may have said how a file without headers lies
    problems = [*image.problems, *image.memory.problems(), *(kernel.identity.problems if kernel else ())]
    rows += [("missing", text) for text in problems] or ([("missing", "nothing")] if failure is None else [])
    width = max(len(label) for label, _ in rows) + 2
    for label, value in rows:
        sys.stdout.write(f"{label:{width}}{printable(value)}\n")
    if failure is not None:
        raise failure
    return ExitCode.OK


def _image(image: Image) -> Iterator[tuple[str, str]]:
    from vmaforensics.report.document.provenance import coverage

    pages = coverage(image)
    for path in image.paths:
        yield "file", str(path)
    yield "format", f"{image.format}, {image.size} bytes"
    yield from image.details.items()
    count = len(image.memory.ranges)
    yield "RAM", f"{pages.ram} pages ({pages.ram // 256} MiB) in {counted(count, 'range')}"
    yield "coverage", f"{pages.present} pages present, {pages.zero} zero, {pages.absent} not in the dump"
    if image.cpus:
        yield "CPU notes", f"{len(image.cpus)}"


def _kernel(kernel: Kernel) -> Iterator[tuple[str, str]]:
    """Label and value of each line on the kernel: its identity, the sources of its symbols and types, its tasks."""
    from vmaforensics.views.problems import ProblemLog
    from vmaforensics.views.processes.mms import read_mms
    from vmaforensics.views.processes.tasks import walk_tasks

    identity = kernel.identity
    yield "kernel", identity.release
    yield "banner", identity.banner
    yield "build id", identity.build_id or "unknown"
    isolation = {True: "page-table isolation on", False: "page-table isolation off", None: "isolation unknown"}
    yield "paging", f"{kernel.arch.name}, {identity.levels} levels, {isolation[identity.isolation]}"
    offset = "unknown" if identity.kaslr_offset is None else hex(identity.kaslr_offset)
    yield "KASLR offset", f"{offset}, phys_base {identity.phys_base:#x}"
    yield "VMCOREINFO", identity.vmcoreinfo_source or "not found"
    yield "symbols", identity.symbols_source or "only what VMCOREINFO and init_task give"
    yield "types", identity.types_source
    yield "translation", identity.translation_source
    log = ProblemLog()
    tasks = walk_tasks(kernel, log)
    mms = read_mms(kernel, tasks, log)
    yield from _code(kernel)
    index = "maple tree" if kernel.has("mm_struct", "mm_mt") else "vm_next list and red-black tree"
    yield "tasks", f"{int(tasks.leader.sum())} processes, {len(tasks)} threads, {len(mms)} address spaces"
    yield "memory maps", f"{index}, {int(mms.map_count.sum())} VMAs by map_count"
    yield from _frames(kernel)
    if len(log.table()):
        yield "missing", f"{len(log.table())} records of tasks and address spaces could not be read"


def _code(kernel: Kernel) -> Iterator[tuple[str, str]]:
    """What there is of the kernel's code, and who has a hand in it."""
    import numpy as np

    from vmaforensics.report.document.road_part import road_read, road_users
    from vmaforensics.views.road.road import gather_road
    from vmaforensics.views.vmas.files import Files
    from vmaforensics.views.vmas.vmas import Vmas

    try:
        road = gather_road(kernel, np.zeros(0, np.uint64), Vmas.zeros(0), Files.zeros(0))
    except (KernelNotFoundError, MemoryReadError) as error:
        yield "kernel code", f"not available: {error}"
        return
    yield "kernel code", ", ".join(road_read(road)) or "not in the image"
    yield "hooks", ", ".join(road_users(road)) or "none"


def _frames(kernel: Kernel) -> Iterator[tuple[str, str]]:
    """What page frames are used for, by their struct pages and the kernel's own page tables."""
    import numpy as np

    from vmaforensics.views.frames.owners import account_for
    from vmaforensics.views.pages.frame_kinds import FrameKind, classify_frames

    none = np.zeros(0, np.uint64)
    try:
        kinds = classify_frames(kernel)
        kinds = account_for(kernel, kinds, mapped=none, tables=none, kept=none).kinds
    except KernelNotFoundError as error:
        yield "page frames", str(error)
        return
    counts = {kind: kinds.count(kind) for kind in FrameKind}
    told = [f"{count} {kind.label}" for kind, count in counts.items() if count]
    yield "page frames", ", ".join(told)
