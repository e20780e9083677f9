"""The kernel's log, from whichever structure this kernel keeps it in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.views.log.log_buf import read_log_buf
from vmaforensics.views.log.ring_buffer import read_ring_buffer
from vmaforensics.views.log.safe_buffers import with_safe_buffers

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.log.records import Log


def read_log(kernel: Kernel) -> Log | None:
    """Every record of the log, the oldest first; None if none of the structures that keep it can be found or read."""
    log = read_ring_buffer(kernel) or read_log_buf(kernel)
    return None if log is None else with_safe_buffers(kernel, log)
