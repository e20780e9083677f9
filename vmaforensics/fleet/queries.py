"""Questions over the dataset of a fleet: DuckDB with a view per table, and those of ``views.sql``."""

from __future__ import annotations

import glob
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vmaforensics.fleet.dataset import pattern
from vmaforensics.fleet.tables import TABLES

if TYPE_CHECKING:
    from collections.abc import Sequence

# What machines have that none of their peers in the baseline has, and machines that have no peers there.
_BESIDE_BASELINE: Final = """
CREATE VIEW beyond_baseline AS
    SELECT m.location, m.role, m.release, t.rank, t.trait, t.name, k.machines AS peers
    FROM traits t JOIN analysed m USING (image) JOIN baseline.kinds k ON k.build = m.build AND k.role = m.role
    WHERE NOT EXISTS (
        SELECT 1 FROM baseline.traits b JOIN baseline.analysed p USING (image)
        WHERE p.build = m.build AND p.role = m.role AND b.trait = t.trait AND b.name = t.name)
    ORDER BY t.rank, m.location, t.name;
CREATE VIEW beyond_baseline_together AS
    SELECT rank, trait, name, role, count(*) AS machines, any_value(peers) AS peers,
           list(location ORDER BY location) AS locations
    FROM beyond_baseline GROUP BY rank, trait, name, role, release ORDER BY rank, machines, name;
CREATE VIEW without_peers AS
    SELECT m.location, m.role, m.release FROM analysed m
    WHERE NOT EXISTS (SELECT 1 FROM baseline.kinds k WHERE k.build = m.build AND k.role = m.role);
"""

_ASKED_OFTEN: Final = ("analysed", "traits", "rarity")


def view_statements(folder: Path | None = None) -> str:
    """SQL that makes the views, over the dataset in ``folder``; without one, over that of the current directory."""
    named = {table: pattern(folder or Path(), table).replace("'", "''") for table in TABLES}
    tables = "\n".join(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{path}');" for table, path in named.items())
    return f"{tables}\n\n{files(__package__).joinpath('views.sql').read_text(encoding='utf-8')}"


def connect(folder: Path, baseline: Path | None = None, *, kept: bool = False) -> Any:  # noqa: ANN401 - duckdb has no types of its own here
    """A connection that has the views, and reads nothing but the dataset, and the one of ``baseline``.

    With ``kept`` those that many others ask are tables: for one who asks much, and of a dataset that stays as it is.
    """
    import duckdb

    base = folder.absolute()
    connection = duckdb.connect(":memory:")
    if baseline is not None:
        connection.execute("CREATE SCHEMA baseline; USE baseline")
        connection.execute(_statements(baseline.absolute(), kept=kept))
        connection.execute("USE memory.main")
    connection.execute(_statements(base, kept=kept))
    if baseline is not None:
        connection.execute(_BESIDE_BASELINE)
    folders = [str(base), *([] if baseline is None else [str(baseline.absolute())])]
    allowed = [*folders, *map(glob.escape, folders)]  # it asks for the pattern, then for what the pattern matches
    connection.execute("SET allowed_directories = ?", [allowed])
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")
    return connection


def _statements(folder: Path, *, kept: bool) -> str:
    statements = view_statements(folder)
    for name in _ASKED_OFTEN if kept else ():
        statements = statements.replace(f"CREATE VIEW {name} AS", f"CREATE TABLE {name} AS")
    return statements


def rows(connection: Any, statement: str, parameters: Sequence[object] = ()) -> list[dict[str, Any]]:  # noqa: ANN401
    """The answer to a question, a dictionary per row."""
    found = connection.execute(statement, list(parameters))
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]
