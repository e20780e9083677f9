"""A table is a class whose attributes are arrays of one length: a structure of arrays.

    @table(struct="vm_area_struct")
    class Vmas(Table):
        vma: U64  # address of the vm_area_struct
        start: U64 = member("vm_start")
        refcnt: I64 = member("vm_refcnt.refs.counter?", fill=-1)  # -1 where the kernel has no vm_refcnt
        file_row: I64 = column(fill=-1)  # row of the file table

Columns are contiguous and have the dtype of their annotation. ``struct`` and :func:`member` say where
:meth:`vmaforensics.kernel.kernel.Kernel.gather` reads a column from; see there for what a path may be.
Tables are frozen: a column is not replaced by another array, but its values may be written while a
table is being made (``vmas.file_row[:] = …``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar, dataclass_transform, get_args

import numpy as np

from vmaforensics.columns import types
from vmaforensics.columns.lookup import sort_order, values_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Self

    from numpy.typing import NDArray

    Rows = NDArray[np.bool_] | NDArray[np.signedinteger[Any]] | slice

_T = TypeVar("_T")


class _Declared(NamedTuple):
    """What a class says of a column beside its type."""

    path: str = ""
    fill: int = 0


class Column(NamedTuple):
    """What is known of a column: its dtype, whether it is wide, what it holds where nothing was read, and the
    path of the member it is read from ("" for none)."""

    dtype: np.dtype[Any]
    wide: bool
    fill: int
    path: str


def column(*, fill: int = 0) -> Any:  # noqa: ANN401 - a field specifier stands for a value of any type
    """A column that is not read from a structure; ``fill`` is its value until it is written."""
    return _Declared(fill=fill)


def member(path: str, *, fill: int = 0) -> Any:  # noqa: ANN401
    """A column that is read from the member ``path`` of the table's structure.

    ``a|b`` is the first of both that the kernel has. With a trailing ``?`` the kernel may have none: the column
    then holds ``fill``, as it does in rows that could not be read.
    """
    return _Declared(path, fill)


@dataclass_transform(eq_default=False, kw_only_default=True, frozen_default=True, field_specifiers=(column, member))
def table(*, struct: str = "") -> Callable[[type[_T]], type[_T]]:
    """Make a :class:`Table` of a class of annotated columns; ``struct`` is the structure its members lie in."""

    # Nothing is generated: a program that has hundreds of tables would wait for it at each start.
    def decorate(cls: type[_T]) -> type[_T]:
        cls.struct = struct  # type: ignore[attr-defined]
        return cls

    return decorate


class Table:
    """Base of every table."""

    struct: ClassVar[str] = ""

    def __init__(self, **columns: NDArray[Any]) -> None:
        every = columns_of(type(self))
        if wrong := sorted(columns.keys() ^ every.keys()):
            raise TypeError(f"{type(self).__name__} has the columns {', '.join(every)}; not so: {', '.join(wrong)}")
        count = -1
        for name, known in every.items():
            values = columns[name]
            if not isinstance(values, np.ndarray) or values.dtype != known.dtype or values.ndim != 1 + known.wide:
                said = f"{values.dtype}, {values.ndim} dimensions" if isinstance(values, np.ndarray) else type(values)
                raise TypeError(f"{type(self).__name__}.{name} must be {known.dtype}, not {said}")
            if count not in (-1, len(values)):
                raise ValueError(f"{type(self).__name__}.{name} has {len(values)} rows, the columns before it {count}")
            count = len(values)
            self.__dict__[name] = np.ascontiguousarray(values)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a {type(self).__name__} is frozen: replace() makes one with another {name}")

    def __len__(self) -> int:
        return len(getattr(self, next(iter(columns_of(type(self))))))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)} rows of {', '.join(columns_of(type(self)))}>"

    @classmethod
    def zeros(cls, count: int) -> Self:
        """``count`` rows in which every column holds its ``fill``; wide columns have no values yet."""
        return cls(**{name: _filled(known, count) for name, known in columns_of(cls).items()})

    @classmethod
    def of(cls, count: int | None = None, /, **columns: Sequence[object] | NDArray[Any]) -> Self:
        """A table of the columns given, each converted to its dtype; the others hold their ``fill``.

        ``count`` is asked for only if no column is given. Raises :class:`TypeError` for a name that is no column.

        >>> Vmas.of(start=[0x1000, 0x3000], end=[0x2000, 0x4000])
        """
        known = columns_of(cls)
        if unknown := sorted(set(columns) - set(known)):
            raise TypeError(f"{cls.__name__} has no column {', '.join(unknown)}")
        rows = len(next(iter(columns.values()))) if columns else count or 0
        given = {name: np.array(values, known[name].dtype, ndmin=1) for name, values in columns.items()}
        return cls(**{name: given[name] if name in given else _filled(column, rows) for name, column in known.items()})

    @classmethod
    def from_structured(cls, rows: NDArray[np.void]) -> Self:
        """A table of the fields of a NumPy structured array that are called as its columns; the others stay behind."""
        return cls(**{name: rows[name].astype(known.dtype) for name, known in columns_of(cls).items()})

    @classmethod
    def concatenate(cls, tables: Iterable[Self]) -> Self:
        """The rows of all ``tables``, one after the other."""
        parts = list(tables)
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls.zeros(0)
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in columns_of(cls)})

    def take(self, rows: Rows) -> Self:
        """Some of the rows: by number, by a mask as long as the table, or by a slice."""
        return type(self)(**{name: getattr(self, name)[rows] for name in columns_of(type(self))})

    def take_or_fill(self, rows: NDArray[np.signedinteger[Any]]) -> Self:
        """The rows by number; where that is -1, every column holds its ``fill``. The table may be empty then.

        >>> Vmas.of(start=[0x1000]).take_or_fill(np.array([-1, 0])).start
        array([   0, 4096], dtype=uint64)
        """
        known = columns_of(type(self))
        return type(self)(**{name: values_at(getattr(self, name), rows, known[name].fill) for name in known})

    def sort_by(self, *keys: NDArray[Any]) -> Self:
        """The rows in ascending order of ``keys``, arrays as long as the table, the weightiest first."""
        return self.take(sort_order(*keys))

    def replace(self, **columns: NDArray[Any]) -> Self:
        """The same table with other arrays for some columns."""
        return type(self)(**{**self.columns(), **columns})

    def columns(self) -> Mapping[str, NDArray[Any]]:
        """Every column by its name, in the order of the class."""
        return {name: getattr(self, name) for name in columns_of(type(self))}

    def to_structured(self) -> NDArray[np.void]:
        """A NumPy structured array of the same columns and rows; a copy."""
        named = self.columns()
        formats = [(name, values.dtype, values.shape[1:]) for name, values in named.items()]
        rows = np.zeros(len(self), np.dtype(formats))
        for name, values in named.items():
            rows[name] = values
        return rows

    def to_arrow(self) -> Any:  # noqa: ANN401 - pyarrow is optional and has no types
        """A ``pyarrow.Table`` of the same columns and rows; wide columns become lists. Needs pyarrow."""
        import pyarrow as pa

        return pa.table({name: pa.array(_arrow(values)) for name, values in self.columns().items()})


_KNOWN: dict[type, dict[str, Column]] = {}


def columns_of(cls: type[Table]) -> dict[str, Column]:
    """The columns of a table class by name, in order."""
    known = _KNOWN.get(cls)
    if known is None:
        known = _KNOWN[cls] = _columns(cls)
    return known


def _columns(cls: type[Table]) -> dict[str, Column]:
    found: dict[str, Column] = {}
    for owner in reversed(cls.__mro__):
        for name, hint in vars(owner).get("__annotations__", {}).items():
            if owner is not Table:
                found[name] = _column(hint, vars(owner).get(name, _Declared()))
    return found


def _column(hint: Any, declared: _Declared) -> Column:  # noqa: ANN401 - an alias of types.py, or the name of one
    array = getattr(types, hint) if isinstance(hint, str) else hint
    marks = getattr(array, "__metadata__", ())
    scalar = get_args(get_args(array.__origin__ if marks else array)[1])[0]
    text = next((mark for mark in marks if mark != types.WIDE), None)
    return Column(np.dtype(text or scalar), types.WIDE in marks, declared.fill, declared.path)


def _filled(known: Column, count: int) -> NDArray[Any]:
    if known.wide:
        return np.zeros((count, 0), known.dtype)
    return np.full(count, known.fill, known.dtype) if known.fill else np.zeros(count, known.dtype)


def _arrow(values: NDArray[Any]) -> Any:  # noqa: ANN401
    return values if values.ndim == 1 else list(values)
