"""Names for the arrays that columns are: one dimension unless they are called wide."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

WIDE: Final = "wide"  # marks a column of several values a row, as many as the kernel's structure has

U8: TypeAlias = NDArray[np.uint8]
U16: TypeAlias = NDArray[np.uint16]
U32: TypeAlias = NDArray[np.uint32]
U64: TypeAlias = NDArray[np.uint64]
I8: TypeAlias = NDArray[np.int8]
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

U8Wide: TypeAlias = Annotated[NDArray[np.uint8], WIDE]  # shape (rows, values)
U64Wide: TypeAlias = Annotated[NDArray[np.uint64], WIDE]
I64Wide: TypeAlias = Annotated[NDArray[np.int64], WIDE]

Bytes16: TypeAlias = Annotated[NDArray[np.bytes_], "S16"]  # task_struct.comm and its like, NULs behind the text
