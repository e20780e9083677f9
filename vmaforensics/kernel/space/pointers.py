"""Which words can be kernel addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def kernel_pointer(values: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Can each value be an address in the kernel half? (57 bits at most: Intel SDM vol. 1, 3.3.7.1)"""
    return values >= np.uint64(0xFF000000_00000000)
