"""The document's tables as pandas data frames, where pandas is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def frame(rows: NDArray[np.void]) -> Any:  # noqa: ANN401 - pandas is optional, and so is its type
    """A structured array as a ``pandas.DataFrame``, a column each with the types of the array.

    Raises ``ImportError``, with what to do, without pandas.
    """
    try:
        import pandas
    except ImportError:
        raise ImportError("data frames need pandas; `pip install 'vmaforensics[pandas]'`, or use table()") from None
    return pandas.DataFrame({column: rows[column] for column in rows.dtype.names or ()})
