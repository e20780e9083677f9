"""Who keeps memory without mapping it: open files, and the files in memory they and System V hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.views.descriptors.descriptors import Descriptors, read_descriptors
from vmaforensics.views.descriptors.held_frames import read_held_frames
from vmaforensics.views.descriptors.holders import HeldFrames
from vmaforensics.views.descriptors.kept_files import read_kept_files
from vmaforensics.views.descriptors.memory_files import MemoryFiles, read_memory_files
from vmaforensics.views.descriptors.sysv import Segments, read_segments

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.descriptors.keepers import KeptFiles
    from vmaforensics.views.problems import ProblemLog
    from vmaforensics.views.processes.tasks import Tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlesView:
    """Open files, files in memory and System V segments."""

    descriptors: Descriptors
    kept: KeptFiles  # in flight over unix sockets, or registered with io_uring
    memory_files: MemoryFiles
    names: list[bytes | None]  # one per row of memory_files
    segments: Segments
    whole: bool  # every list, index and table was read to its end, except for what ``kept`` was read from
    kept_whole: bool  # every queue and every table of io_uring was read to its end
    held: HeldFrames = field(default_factory=lambda: HeldFrames.zeros(0))  # by pipes, io_uring, sockets and BPF maps
    held_whole: bool = True  # everything they have was read


def gather_handles(kernel: Kernel, tasks: Tasks, log: ProblemLog) -> HandlesView:
    """Read the open files of every process, those that sockets and io_uring keep, every file in memory and every
    System V segment. Problems carry the view ``HANDLES``."""
    descriptors, descriptors_whole = read_descriptors(kernel, tasks, log)
    kept, kept_whole = read_kept_files(kernel, descriptors, log)
    held, held_whole = read_held_frames(kernel, descriptors, kept, log)
    memory = read_memory_files(kernel, np.concatenate([descriptors.inode, kept.inode]), log)
    segments, segments_whole = read_segments(kernel, tasks, log)
    return HandlesView(
        descriptors=descriptors,
        kept=kept,
        kept_whole=kept_whole,
        held=held,
        held_whole=held_whole,
        memory_files=memory.files,
        names=memory.names,
        segments=segments,
        whole=descriptors_whole and memory.whole and segments_whole,
    )
