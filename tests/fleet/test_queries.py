"""The views over a dataset, on machines whose rows are made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fleet.made import add_machine, new_dataset
from vmaforensics.fleet.dataset import pattern
from vmaforensics.fleet.page import render_page
from vmaforensics.fleet.queries import connect, rows
from vmaforensics.fleet.tables import TABLES

if TYPE_CHECKING:
    from pathlib import Path

duckdb = pytest.importorskip("duckdb")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return new_dataset(tmp_path / "fleet")


def _ask(dataset: Path, question: str, baseline: Path | None = None) -> list[dict[str, Any]]:
    return rows(connect(dataset, baseline), question)


def test_an_empty_dataset_has_every_table_and_a_page(dataset: Path) -> None:
    connection = connect(dataset)
    for table, dtype in TABLES.items():
        connection.execute(f"SELECT * FROM {table}")
        assert [column[0] for column in connection.description] == ["image", *(dtype.names or ())]
        assert connection.fetchall() == []
    assert "No machine contradicts itself" in render_page(dataset)


def test_what_one_machine_of_a_kind_has_is_rare_and_what_all_have_is_not(dataset: Path) -> None:
    common = {"name": "ext4"}
    for name in ("a", "b", "c"):
        add_machine(dataset, name, modules=[common, *([{"name": "evil"}] if name == "b" else [])])
    add_machine(dataset, "of another kind", build="b2", modules=[{"name": "xfs"}])
    found = _ask(dataset, "SELECT trait, name, seen, of, locations FROM rarity")
    assert found == [{"trait": "module", "name": "evil", "seen": 1, "of": 3, "locations": ["/images/b"]}]


def test_code_that_a_minority_has_otherwise(dataset: Path) -> None:
    page = {"name": "/lib/libc.so", "page": 7}
    for name, content in (("a", "11"), ("b", "11"), ("c", "11"), ("d", "99")):
        add_machine(dataset, name, code=[page | {"content": content}, page | {"page": 8, "content": "22"}])
    found = _ask(dataset, "SELECT name, page, content, seen, of, locations FROM changed_code")
    assert found == [
        {"name": "/lib/libc.so", "page": 7, "content": "99", "seen": 1, "of": 4, "locations": ["/images/d"]}
    ]


def test_the_same_bytes_on_two_machines(dataset: Path) -> None:
    add_machine(dataset, "a", code=[{"name": "", "content": "cc", "page": 1}])
    add_machine(
        dataset, "b", code=[{"name": "[heap]", "content": "cc", "page": 5}, {"name": "/bin/sh", "content": "dd"}]
    )
    found = _ask(dataset, "SELECT content, machines FROM same_content")
    assert found == [{"content": "cc", "machines": 2}]


def test_the_same_crash(dataset: Path) -> None:
    for name in ("a", "b"):
        add_machine(dataset, name, crashes=[{"fingerprint": "1:ab", "kind": "oops", "functions": "f < g"}])
    add_machine(dataset, "c", crashes=[{"fingerprint": "1:cd"}])
    found = _ask(dataset, "SELECT fingerprint, machines FROM same_crash ORDER BY machines DESC")
    assert found == [{"fingerprint": "1:ab", "machines": 2}, {"fingerprint": "1:cd", "machines": 1}]


def test_beyond_the_baseline_is_what_no_peer_has(dataset: Path, tmp_path: Path) -> None:
    baseline = new_dataset(tmp_path / "good")
    add_machine(baseline, "web-1", role="web", modules=[{"name": "ext4"}])
    add_machine(baseline, "db-1", role="db", modules=[{"name": "evil"}])
    add_machine(dataset, "web-2", role="web", modules=[{"name": "ext4"}, {"name": "evil"}])
    add_machine(dataset, "mail", role="mail", modules=[{"name": "evil"}])
    beyond = _ask(dataset, "SELECT location, trait, name, peers FROM beyond_baseline", baseline)
    assert beyond == [{"location": "/images/web-2", "trait": "module", "name": "evil", "peers": 1}]
    assert [row["location"] for row in _ask(dataset, "FROM without_peers", baseline)] == ["/images/mail"]
    assert "Beyond the baseline" in render_page(dataset, baseline)


def test_what_could_not_be_read_is_no_machine(dataset: Path) -> None:
    add_machine(dataset, "a", image=[{"status": "failed", "exit_code": 11, "error": "no image"}])
    add_machine(dataset, "empty", image=[{"processes": 0, "exit_code": 13}])
    found = _ask(dataset, "SELECT location, exit_code FROM unreadable ORDER BY location")
    assert found == [{"location": "/images/a", "exit_code": 11}, {"location": "/images/empty", "exit_code": 13}]
    assert _ask(dataset, "FROM analysed") == []


def test_hostile_names_stay_text(dataset: Path) -> None:
    add_machine(
        dataset, "<script>alert(1)</script>", findings=[{"rule": "A", "severity": "high", "rule_title": "<b>\x1b[2J"}]
    )
    page = render_page(dataset)
    assert "<script>alert" not in page
    assert "<b>\x1b" not in page
    assert "\x1b" not in page


def test_a_question_reaches_nothing_but_the_dataset(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n", encoding="utf-8")
    connection = connect(dataset)
    with pytest.raises(duckdb.PermissionException):
        connection.execute(f"SELECT * FROM read_csv('{tmp_path}/secret.csv')")
    with pytest.raises(duckdb.PermissionException):
        connection.execute(f"COPY (SELECT 1) TO '{tmp_path}/out.csv'")


def test_a_thousand_machines_fit_on_the_page(dataset: Path) -> None:
    for number in range(1000):
        add_machine(
            dataset,
            f"case/rack-{number % 40}/host-{number:04}.example.org.lime",
            image=[
                {
                    "worst": "low",
                    "low": 3,
                    "hostname": f"host-{number:04}",
                    "verdict": "What could be read agrees. " * 8,
                }
            ],
            modules=[{"name": f"module_{number}"}],
        )
    assert len(render_page(dataset).encode()) < 3_000_000


def test_pandas_and_polars_read_it(dataset: Path) -> None:
    add_machine(dataset, "a", modules=[{"name": "ext4", "size": 5}])
    add_machine(dataset, "b", modules=[{"name": "xfs", "size": 6}])
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(dataset / "tables" / "modules")
    assert sorted(zip(frame["name"].astype(str), frame["size"], strict=True)) == [("ext4", 5), ("xfs", 6)]
    polars = pytest.importorskip("polars")
    assert sorted(polars.read_parquet(pattern(dataset, "modules"))["size"].to_list()) == [5, 6]
