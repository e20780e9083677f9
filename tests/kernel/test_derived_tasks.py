"""``task_struct`` by what tasks hold: its members lie where the undamaged types say."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vmaforensics.analysis import analyse_image
from vmaforensics.checks.finding import Severity
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.image.open import open_image
from vmaforensics.image.overlay import Overlay
from vmaforensics.kernel.find import find_kernel
from vmaforensics.kernel.structures.btf import Btf
from vmaforensics.kernel.structures.btf_records import STRUCT

if TYPE_CHECKING:
    from support import Sample

    from vmaforensics.image.image import Image
    from vmaforensics.kernel.kernel import Kernel

pytestmark = pytest.mark.image


def without(sample: Sample, start: int, size: int) -> tuple[Image, Overlay]:
    """The image with zeros in place of these bytes of the BTF."""
    kernel, image = sample.analysis.kernel, open_image(sample.image_path)
    places = np.arange(start, start + size, 4, dtype=np.uint64) + np.uint64(kernel.symbols.get("__start_BTF") or 0)
    pas, _, mapped = kernel.space.translate(places)
    assert mapped.all()
    memory = Overlay(image.memory)
    for pa in pas.tolist():
        memory.write(pa, bytes(4))
    return replace(image, memory=memory), memory


def without_tasks(sample: Sample) -> tuple[Image, Overlay]:
    """The image with zeros in the place of the record of ``task_struct``."""
    types = sample.analysis.kernel.types
    assert isinstance(types, Btf)
    words, starts = types.words, types.starts
    heads = [types.string(int(words[at])) == "task_struct" and words[at + 1] >> 24 & 0x7F == STRUCT for at in starts]
    row = int(np.flatnonzero(heads)[0])
    types_at = types.blob.index(words[:64].tobytes())
    first, end = (types_at + 4 * int(at) for at in starts[row : row + 2])
    return without(sample, first, end - first)


def test_the_tasks_say_where_their_members_lie(any_kernel: Sample) -> None:
    image, _ = without_tasks(any_kernel)
    found, sound = find_kernel(image), any_kernel.analysis.kernel
    layout = found.types.struct("task_struct")
    assert layout is not None
    assert {"comm", "tasks", "pid", "tgid", "mm", "active_mm", "flags", "real_parent", "signal", "thread_node"} <= set(
        layout.fields
    )
    for name, field in layout.fields.items():
        assert (field.offset, field.extent) == (
            sound.offset("task_struct", name),
            sound.member("task_struct", name).extent,
        )
    assert any("derived from what the tasks hold" in problem for problem in found.identity.problems)


def test_every_process_and_map_is_there_without_the_type_of_tasks(either_sample: Sample) -> None:
    image, _ = without_tasks(either_sample)
    found, sound = analyse_image(image), either_sample.analysis
    assert found.views.tasks.task.tolist() == sound.views.tasks.task.tolist()
    assert found.views.tasks.pid.tolist() == sound.views.tasks.pid.tolist()
    assert found.views.tasks.comm.tolist() == sound.views.tasks.comm.tolist()
    assert found.views.mms.mm.tolist() == sound.views.mms.mm.tolist()
    assert found.views.vmas.vma.tolist() == sound.views.vmas.vma.tolist()
    assert all(finding.severity == Severity.INFO for finding in found.findings)


def test_every_process_is_there_without_the_first_of_all_names(any_kernel: Sample) -> None:
    """That of ``list_head``, ``signal_struct``, of most members of a task: 4 KiB that hold a few hundred names."""
    types, sound = any_kernel.analysis.kernel.types, any_kernel.analysis
    assert isinstance(types, Btf)
    header = np.frombuffer(types.blob, "<u4", 6)
    strings = int(header[1]) + int(header[4])
    image, _ = without(any_kernel, strings & -4, 4096)
    found = analyse_image(image)
    assert found.views.tasks.task.tolist() == sound.views.tasks.task.tolist()
    assert found.views.tasks.comm.tolist() == sound.views.tasks.comm.tolist()
    for struct, path in (("list_head", "prev"), ("signal_struct", "thread_head"), ("task_struct", "thread_node")):
        assert found.kernel.offset(struct, path) == sound.kernel.offset(struct, path)
    assert found.context.failures == []


def test_a_list_of_tasks_that_is_broken_says_nothing(maple_sample: Sample) -> None:
    """Its first link leads nowhere."""
    image, memory = without_tasks(maple_sample)
    kernel: Kernel = maple_sample.analysis.kernel
    first = kernel.symbols.get("init_task")
    assert first is not None
    link = np.array([first + kernel.offset("task_struct", "tasks.next")], np.uint64)
    memory.write(int(kernel.space.translate(link).pa[0]), bytes(8))
    with pytest.raises(KernelNotFoundError, match="task_struct"):
        find_kernel(image)
