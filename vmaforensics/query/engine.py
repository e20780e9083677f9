"""DuckDB over the tables of a source. A statement sees them and nothing else: no file, no network, no setting; it may
take half of the memory that is free."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vmaforensics.errors import UsageError
from vmaforensics.image.limits import free_memory
from vmaforensics.query.tables import OF_DOCUMENTS, OF_IMAGES, created
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vmaforensics.query.sources import Columns, Source

_ACCESS = "enable_external_access"
_LOCKED = {
    _ACCESS: "false",
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "temp_directory": "",
}
_FETCHED = 1 << 12  # rows at once
_LEAST_MEMORY = 256 << 20  # bytes that DuckDB may take, however few are free


class Result(NamedTuple):
    """What a statement gives: names of columns, whether each holds addresses, and the rows."""

    names: list[str]
    addresses: list[bool]
    rows: Iterator[tuple[object, ...]]


class Engine:
    """One source's tables. A table is filled when a statement names it."""

    def __init__(self, source: Source) -> None:
        try:
            import duckdb
        except ImportError:
            raise UsageError("sql needs DuckDB: pip install 'vmaforensics[sql]'") from None
        self._error: type[Exception] = duckdb.Error
        self._source = source
        self._filled: set[str] = set()
        self._duckdb = duckdb
        self._connection = self._connect(_LOCKED)
        self._connection.execute("SET lock_configuration = true")

    def _connect(self, settings: dict[str, Any]) -> Any:  # noqa: ANN401 - duckdb is optional
        limit = f"{max(free_memory() // 2, _LEAST_MEMORY)}B"
        return self._duckdb.connect(":memory:", config={**settings, "memory_limit": limit})

    def run(self, statement: str) -> Result:
        """Run a statement. Raises :class:`UsageError` with what DuckDB says of one that it refuses."""
        try:
            self._fill(self._connection, statement)
            answer = self._connection.execute(statement)
            described = answer.description or []
        except self._error as error:
            raise UsageError(_sentence(error)) from None
        names = [printable(str(column[0])) for column in described]
        return Result(names, [str(column[1]) == "UBIGINT" for column in described], self._rows(answer, bool(described)))

    def _rows(self, answer: Any, any_columns: bool) -> Iterator[tuple[object, ...]]:  # noqa: ANN401
        while any_columns:
            try:
                rows = answer.fetchmany(_FETCHED)
            except self._error as error:
                raise UsageError(_sentence(error)) from None
            if not rows:
                return
            yield from rows

    def parquet(self, query: str) -> bytes:
        """What a query gives, as a Parquet file. Raises :class:`UsageError` as :meth:`run` does."""
        with tempfile.TemporaryDirectory(prefix="vmaforensics-") as folder:
            target = Path(folder) / "result.parquet"
            # This one file may be written, by this connection alone; the order of the settings matters.
            connection = self._connect({name: value for name, value in _LOCKED.items() if name != _ACCESS})
            connection.execute(
                f"SET allowed_paths = ['{target}']; SET {_ACCESS} = false; SET lock_configuration = true"
            )
            inner = query.rstrip().rstrip(";")
            try:
                self._fill(connection, query, again=True)
                connection.execute(f"COPY ({inner}\n) TO '{target}' (FORMAT parquet, COMPRESSION zstd)")
            except self._error as error:
                raise UsageError(_sentence(error)) from None
            return target.read_bytes()

    def _fill(self, connection: Any, statement: str, *, again: bool = False) -> None:  # noqa: ANN401
        """Make the tables that the statement names and that are not there yet."""
        known = (*OF_DOCUMENTS, *OF_IMAGES)
        for name in sorted(self._named(connection, statement) & set(known)):
            if name in self._filled and not again:
                continue
            rows = self._source.table(name)
            if isinstance(rows, dict):
                make_table(connection, name, rows)
            else:
                connection.register(name, rows)
            if not again:
                self._filled.add(name)

    def _named(self, connection: Any, statement: str) -> set[str]:  # noqa: ANN401
        """The tables that a statement reads; of several statements, of all."""
        names: set[str] = set()
        for part in connection.extract_statements(statement):
            try:
                names |= set(connection.get_table_names(part.query))
            except self._error:  # no query: DESCRIBE, say. The words of it will do.
                names |= {word.strip("(),;\"'").lower() for word in part.query.split()}
        return {name.lower() for name in names}

    def tables(self) -> Sequence[str]:
        """The names of the tables there are."""
        return self._source.names


def make_table(connection: Any, name: str, columns: Columns) -> None:  # noqa: ANN401 - duckdb is optional
    """A table of columns. Only what this process gives is read; nothing is looked up by name."""
    connection.execute(created(name, columns))
    connection.register("given", {key: _plain(values) for key, values in columns.items()})
    connection.execute(f"INSERT INTO {name} SELECT * FROM given")
    connection.unregister("given")


def _plain(values: Any) -> Any:  # noqa: ANN401 - an array of any kind
    """Texts as DuckDB takes them: no lone surrogate, which UTF-8 cannot hold."""
    if values.dtype.kind != "O":
        return values
    known = {text: printable(text) for text in set(values.tolist())}
    return np.array([known[text] for text in values.tolist()], object)


def _sentence(error: Exception) -> str:
    """What DuckDB says, in one line."""
    return f"SQL: {' '.join(printable(line.strip()) for line in str(error).splitlines() if line.strip())}"
