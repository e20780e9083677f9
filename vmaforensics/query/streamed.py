"""A table that is made while it is read: DuckDB takes it batch by batch over Arrow, and anew for each scan of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vmaforensics.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

_TYPES = {"b": "bool_", "i": "int64", "u": "uint64"}


class Texts(NamedTuple):
    """A column of texts, each kept once."""

    codes: NDArray[Any]  # of each row
    values: list[str]  # by code; printable


class Streamed:
    """The rows of a table of dtype ``rows``, with the column ``image`` in front, as often as they are asked for.

    ``batches`` gives the columns of some rows at a time. Raises :class:`UsageError` where pyarrow is not installed.
    """

    def __init__(
        self, rows: np.dtype[np.void], batches: Callable[[], Iterator[Mapping[str, NDArray[Any] | Texts]]]
    ) -> None:
        try:
            import pyarrow
        except ImportError:
            raise UsageError("page-table entries in SQL need pyarrow: pip install 'vmaforensics[sql]'") from None
        self._arrow = pyarrow
        self._batches = batches
        texts = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
        kinds = {"image": "O", **{name: rows[name].kind for name in rows.names or ()}}
        self.schema = pyarrow.schema(
            [(name, texts if kind == "O" else getattr(pyarrow, _TYPES[kind])()) for name, kind in kinds.items()]
        )

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """A stream of the Arrow C data interface."""
        made = self._arrow.RecordBatchReader.from_batches(self.schema, self._made())
        capsule: object = made.__arrow_c_stream__(requested_schema)
        return capsule

    def _made(self) -> Iterator[Any]:
        for columns in self._batches():
            arrays = [self._array(columns[field.name], field.type) for field in self.schema]
            yield self._arrow.record_batch(arrays, schema=self.schema)

    def _array(self, values: NDArray[Any] | Texts, kind: Any) -> Any:  # noqa: ANN401 - pyarrow has no types
        if isinstance(values, Texts):
            codes = self._arrow.array(values.codes.astype(np.int32))
            return self._arrow.DictionaryArray.from_arrays(codes, self._arrow.array(values.values, kind.value_type))
        return self._arrow.array(values.astype(kind.to_pandas_dtype(), copy=False))
