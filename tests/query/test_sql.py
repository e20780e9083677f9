"""SQL over documents and images: what it tells, and that it reaches nothing else."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from report.example import clean, example, hostile

from vmaforensics.cli.main import main
from vmaforensics.errors import ExitCode, UsageError
from vmaforensics.query.engine import Engine
from vmaforensics.query.output import as_csv, as_json, as_text
from vmaforensics.query.schema import told
from vmaforensics.query.sources import DocumentsSource, documents_in
from vmaforensics.query.streamed import Streamed, Texts
from vmaforensics.query.tables import NAMES, OF_DOCUMENTS
from vmaforensics.report.document.document import encode
from vmaforensics.report.document.parts import Schema
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray
    from support import Sample

pytest.importorskip("duckdb")


@pytest.fixture
def saved_example(tmp_path: Path) -> Path:
    path = tmp_path / "case.json"
    path.write_bytes(encode(example()))
    return path


def ask(path: Path, statement: str) -> list[tuple[object, ...]]:
    return list(Engine(DocumentsSource([path])).run(statement).rows)


def test_tables_are_those_of_the_document(saved_example: Path) -> None:
    document = example()
    assert ask(saved_example, "SELECT count(*) FROM processes") == [(len(document.processes),)]
    assert ask(saved_example, "SELECT count(*) FROM findings") == [(len(document.findings),)]
    threads = sum(1 + len(process.threads) for process in document.processes)
    assert ask(saved_example, "SELECT count(*), count(DISTINCT image) FROM threads") == [(threads, 1)]
    joined = "SELECT f.severity FROM findings f JOIN processes p USING (pid) ORDER BY 1"
    assert ask(saved_example, f"WITH x AS ({joined}) SELECT count(*) FROM x")
    for name in OF_DOCUMENTS:
        ask(saved_example, f"DESCRIBE {name}")


def test_addresses_are_hexadecimal_in_every_form(saved_example: Path) -> None:
    engine = Engine(DocumentsSource([saved_example]))
    statement = "SELECT 18446744073709551615::UBIGINT AS a, 7 AS n, NULL AS none, '=1+1' AS s"
    text = "".join(as_text(engine.run(statement))).splitlines()
    assert text[2].split() == ["0xffffffffffffffff", "7", "=1+1"]
    (row,) = list(csv.DictReader(io.StringIO("".join(as_csv(engine.run(statement))), newline="")))
    assert row == {"a": "0xffffffffffffffff", "n": "7", "none": "", "s": "'=1+1"}
    (value,) = json.loads("".join(as_json(engine.run(statement))))
    assert value == {"a": "0xffffffffffffffff", "n": 7, "none": None, "s": "=1+1"}
    assert json.loads("".join(as_json(engine.run("SELECT 1 WHERE false")))) == []
    (both,) = json.loads("".join(as_json(engine.run('SELECT 1 AS pid, 2 AS pid, 3 AS "pid_1"'))))
    assert list(both.values()) == [1, 2, 3]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_csv('{file}')",
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM '{file}'",
        "SELECT * FROM glob('/etc/*')",
        "COPY findings TO '{file}.out'",
        "EXPORT DATABASE '{file}.out'",
        "ATTACH '{file}.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET temp_directory = '/tmp'",
        "RESET lock_configuration",
        "SELECT * FROM columns",
        "SELECT getenv('HOME')",
        "PRAGMA enable_profiling",
        "SELECT * FROM",
        "SELECT * FROM nothing",
    ],
)
def test_a_statement_reaches_nothing_but_the_tables(saved_example: Path, tmp_path: Path, statement: str) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\nsecret\n")
    columns = {"a": np.arange(3)}
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="SQL: ") as caught:
        ask(saved_example, statement.format(file=secret))
    assert "\n" not in str(caught.value)
    assert columns
    assert sorted(tmp_path.rglob("*")) == before


def test_parquet_is_written_by_the_option_and_nothing_else(saved_example: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "out.parquet"
    assert (
        main(["sql", str(saved_example), "SELECT pid, mm FROM processes;", "--format", "parquet", "-o", str(out)]) == 0
    )
    table = parquet.read_table(out)
    assert table.num_rows == len(example().processes)
    assert [str(column) for column in table.schema.types] == ["int64", "uint64"]
    engine = Engine(DocumentsSource([saved_example]))
    for statement in (f"SELECT 1) TO '{tmp_path}/other.csv'; --", f"COPY processes TO '{tmp_path}/other.csv'"):
        with pytest.raises(UsageError, match="SQL: "):
            engine.parquet(statement)
    assert not (tmp_path / "other.csv").exists()


def test_strings_of_a_hostile_document_are_printable(tmp_path: Path) -> None:
    path = tmp_path / "hostile.json"
    made = hostile(example(), addresses=False)
    timeless = [msgspec.structs.replace(process, started=None) for process in made.processes]
    fit = msgspec.structs.replace(made, schema=Schema(), kernel=example().kernel, processes=timeless)
    path.write_bytes(encode(fit))
    engine = Engine(DocumentsSource([path]))
    for name in OF_DOCUMENTS:
        for form in (as_text, as_csv, as_json):
            shown = "".join(form(engine.run(f"SELECT * FROM {name}")))
            assert all(line == printable(line) for line in shown.replace("\r\n", "\n").split("\n"))


def test_a_folder_is_all_its_reports(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(encode(example()))
    (tmp_path / "b.json").write_bytes(encode(clean()))
    (tmp_path / "notes.txt").write_text("{")
    engine = Engine(DocumentsSource(documents_in(tmp_path)))
    rows = list(engine.run("SELECT image, count(*) FROM processes GROUP BY image ORDER BY image").rows)
    assert [str(row[0]).rsplit("/", 1)[-1] for row in rows] == ["a.json", "b.json"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="has no report"):
        documents_in(tmp_path / "empty")


def test_what_only_an_image_has_is_said_of_a_document(saved_example: Path) -> None:
    with pytest.raises(UsageError, match="ptes needs the image"):
        ask(saved_example, "SELECT * FROM ptes")


class Counted:
    """A source whose table of entries counts the batches that were made, of 1,000 rows each."""

    names = ("ptes",)

    def __init__(self) -> None:
        self.made = 0

    def table(self, name: str) -> Streamed:
        assert name == "ptes"
        return Streamed(np.dtype([("pid", "i8"), ("va", "u8"), ("perms", "O"), ("anon", "?")]), self._batches)

    def _batches(self) -> Iterator[dict[str, NDArray[Any] | Texts]]:
        for number in range(100):
            self.made += 1
            rows = np.arange(1000 * number, 1000 * (number + 1))
            yield {
                "image": Texts(np.zeros(1000, np.int64), ["a.elf"]),
                "pid": np.full(1000, number, np.int32),
                "va": rows.astype(np.uint64) << np.uint64(40),
                "perms": Texts(rows % 2, ["r--", "rw-"]),
                "anon": rows % 4 == 0,
            }


def test_entries_are_made_while_they_are_read_and_anew_for_each_scan() -> None:
    pytest.importorskip("pyarrow")
    source = Counted()
    engine = Engine(source)
    assert len(list(engine.run("SELECT * FROM ptes LIMIT 3").rows)) == 3
    assert 0 < source.made < 20
    (row,) = engine.run("SELECT count(*), sum(pid), max(va), count(DISTINCT perms), sum(anon::INT) FROM ptes").rows
    assert row == (100_000, 99 * 50_000, 99_999 << 40, 2, 25_000)
    (row,) = engine.run("SELECT count(*) FROM ptes a JOIN ptes b USING (va, pid) WHERE a.perms = 'rw-'").rows
    assert row == (50_000,)
    assert list(engine.run("SELECT DISTINCT image FROM ptes").rows) == [("a.elf",)]


def test_a_statement_that_takes_more_memory_than_there_is_ends(
    saved_example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmaforensics.query.engine.free_memory", lambda: 0)
    with pytest.raises(UsageError, match="Out of Memory"):
        ask(saved_example, "SELECT count(DISTINCT a.range * b.range) FROM range(100000) a, range(100000) b")


def test_the_schema_is_what_tables_have(saved_example: Path) -> None:
    engine = Engine(DocumentsSource([saved_example]))
    for name in OF_DOCUMENTS:
        (line,) = told(f".schema {name}", NAMES)
        described = ", ".join(f'"{row[0]}" {row[1]}' for row in engine.run(f"DESCRIBE {name}").rows)
        assert line == f"CREATE TABLE {name} ({described});\n"
    assert list(told(".tables", ("a", "b"))) == ["a\n", "b\n"]
    for wrong in (".schema nothing", ".quit", ".schema a b"):
        with pytest.raises(UsageError):
            list(told(wrong, NAMES))


def test_an_image_has_its_page_table_entries_and_modules(
    tampered: Sample, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    edit = tampered.edit
    assert edit is not None
    image = str(tampered.image_path)
    assert main(["sql", image, "SELECT pid, min(va) FROM ptes WHERE vma = 0 GROUP BY pid", "--format", "json"]) == 0
    (row,) = json.loads(capsysbinary.readouterr().out)
    assert row["pid"] == edit["pid"]
    assert int(row["min(va)"], 16) == int(str(edit["start"]), 16)
    assert main(["sql", image, "SELECT count(*) AS n FROM modules WHERE state = 'live'", "--format", "json"]) == 0
    assert json.loads(capsysbinary.readouterr().out)[0]["n"] > 5


def test_statements_come_from_stdin_too(saved_example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("SELECT 1"))
    assert main(["sql", str(saved_example), "-"]) == ExitCode.OK
    assert main(["sql", str(saved_example), " "]) == ExitCode.USAGE
    assert msgspec.json.decode(saved_example.read_bytes())
