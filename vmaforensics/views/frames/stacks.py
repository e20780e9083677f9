"""The frames that kernel stacks of tasks lie in, by ``task_struct.stack``: areas of vmalloc, or of the direct map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64
    from vmaforensics.kernel.kernel import Kernel


def stack_frames(kernel: Kernel, tasks: U64) -> U64:
    """The frames of the stacks of the ``task_struct`` at each of ``tasks``, ascending, each once."""
    if not kernel.has("task_struct", "stack"):
        return np.zeros(0, np.uint64)
    stack, ok = kernel.gather_member("task_struct", "stack", tasks)
    stack = stack[ok & kernel.arch.kernel_pointer(stack)]
    pages = np.arange(0, kernel.arch.stack_size(kernel), kernel.arch.page_size, dtype=np.uint64)
    with np.errstate(over="ignore"):
        place = kernel.space.translate((stack[:, None] + pages).reshape(-1))
    return distinct(kernel.arch.pages(place.pa[place.mapped]))
