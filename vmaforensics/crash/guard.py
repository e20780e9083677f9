"""What goes wrong in one part of a crash case costs no other."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

from vmaforensics.errors import KernelNotFoundError, MemoryReadError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.kernel.kernel import Kernel

T = TypeVar("T")
U = TypeVar("U")

log = logging.getLogger(__name__)


def guarded(kernel: Kernel, part: str, make: Callable[[], T], otherwise: U) -> T | U:
    """``make()``, or ``otherwise`` where it fails; why is a problem of the kernel's identity, which reports show."""
    try:
        return make()
    except (KernelNotFoundError, MemoryReadError) as error:
        kernel.identity.problems.append(f"{part}: {error}")
    except Exception as error:  # a bug of ours must not cost the page
        log.debug("part %s", part, exc_info=True)
        kind = type(error).__name__
        kernel.identity.problems.append(f"internal error in the part {part} ({kind}: {error}); please report it")
    return otherwise
