"""The document's tables as pandas data frames, where pandas is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmaforensics.report.formats.tables import table

if TYPE_CHECKING:
    from vmaforensics.report.document.document import Document


def frame(document: Document, name: str) -> Any:  # noqa: ANN401 - pandas is optional, and so is its type
    """``table(document, name)`` as a ``pandas.DataFrame``, a column each with the types of the table.

    Raises ``KeyError`` for an unknown name and ``ImportError``, with what to do, without pandas.
    """
    rows = table(document, name)
    try:
        import pandas
    except ImportError:
        raise ImportError("data frames need pandas; `pip install 'vmaforensics[pandas]'`, or use table()") from None
    return pandas.DataFrame({column: rows[column] for column in rows.dtype.names or ()})
