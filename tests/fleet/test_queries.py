"""The views over a dataset, on machines whose rows are made by hand."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import duckdb
import pandas
import polars
import pytest

from fleet.made import add_machine, new_dataset
from vmaforensics.fleet.dataset import pattern
from vmaforensics.fleet.page import render_page
from vmaforensics.fleet.queries import connect, rows
from vmaforensics.fleet.tables import TABLES

if TYPE_CHECKING:
    from pathlib import Path


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


def test_pandas_and_polars_read_it(tmp_path: Path) -> None:
    dataset = new_dataset(tmp_path / "case [1] of *")
    add_machine(dataset, "a", modules=[{"name": "ext4", "size": 5}])
    add_machine(dataset, "b", modules=[{"name": "xfs", "size": 6}])
    frame = pandas.read_parquet(dataset / "tables" / "modules")
    assert sorted(zip(frame["name"].astype(str), frame["size"], strict=True)) == [("ext4", 5), ("xfs", 6)]
    assert sorted(polars.read_parquet(pattern(dataset, "modules"))["size"].to_list()) == [5, 6]
    assert _ask(dataset, "SELECT name, size FROM modules ORDER BY size") == [
        {"name": "ext4", "size": 5},
        {"name": "xfs", "size": 6},
    ]


def test_a_folder_called_as_a_pattern_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "fleet1").mkdir()
    other = new_dataset(tmp_path / "fleet1" / "d")
    add_machine(other, "of another dataset")
    (tmp_path / "fleet[1]").mkdir()
    dataset = new_dataset(tmp_path / "fleet[1]" / "d")
    assert _ask(dataset, "FROM images") == []


def test_what_differs_on_every_machine_has_one_name(dataset: Path) -> None:
    same = {
        "/proc/812/exe": "/proc/#/exe",
        "/run/user/1000/bus": "/run/user/#/bus",
        "/tmp/tmpab12cd34": "/tmp/tmp#",
        "/tmp/tmp.aB3dE6gH9k (deleted)": "/tmp/tmp# (deleted)",
        "/var/lib/docker/overlay2/0123456789abcdef0123/merged/bin/sh": "/var/lib/docker/overlay2/#/merged/bin/sh",
        "/srv/6ba7b810-9dad-11d1-80b4-00c04fd430c8/x": "/srv/#/x",
        "/dev/shm/pulse-shm-2847361": "/dev/shm/pulse-shm-#",
        "/usr/lib/libz.so.1.2.13": "/usr/lib/libz.so.1.2.13",
        "/usr/bin/python3.11": "/usr/bin/python3.11",
    }
    connection = connect(dataset)
    assert {path: rows(connection, "SELECT alike_path(?) AS name", [path])[0]["name"] for path in same} == same
    assert rows(connection, "SELECT alike_name('kworker/u8:2') AS name") == [{"name": "kworker/u#:#"}]


def test_one_odd_machine_does_not_bury_another(dataset: Path) -> None:
    for number in range(8):
        odd = [{"comm": f"job-{name}", "kind": "user"} for name in "abcdefghij"] if number == 3 else []
        own = [{"comm": f"kworker/{number}:1", "kind": "kernel"}]
        hook = [{"kind": "kprobe", "place": "vfs_read", "owner": "module evil"}] if number == 5 else []
        add_machine(dataset, f"m{number}", processes=[*own, *odd], hooks=hook)
    found = _ask(dataset, "SELECT trait, names, locations FROM rare_together")
    assert [(row["trait"], len(row["names"]), row["locations"]) for row in found] == [
        ("hook", 1, ["/images/m5"]),
        ("process name", 10, ["/images/m3"]),
    ]


def test_what_a_compiler_makes_on_every_machine_is_not_rare(dataset: Path) -> None:
    for number in range(5):
        jit = {"comm": "java", "name": "", "perms": "rwxp", "content": f"{number}" * 32}
        same = {"comm": "bash", "name": "[anon:x]", "perms": "r-xp", "content": "ab" if number != 2 else "cd"}
        add_machine(dataset, f"m{number}", executables=[jit, same])
    found = _ask(dataset, "SELECT trait, name, locations FROM rarity")
    assert found == [{"trait": "executable content", "name": "bash [anon:x] cd", "locations": ["/images/m2"]}]


def test_another_version_of_a_file_is_not_a_patch_of_each_page(dataset: Path) -> None:
    for number in range(5):
        content = "old" if number == 4 else "new"
        pages = [{"name": "/lib/libc.so", "page": page, "content": f"{content}{page}"} for page in range(6)]
        if number == 1:
            pages[2]["content"] = "patched"
        add_machine(dataset, f"m{number}", code=pages)
    assert _ask(dataset, "SELECT page, seen, locations FROM changed_code") == [
        {"page": 2, "seen": 1, "locations": ["/images/m1"]}
    ]
    assert _ask(dataset, "SELECT name, machines, locations FROM other_versions_together") == [
        {"name": "/lib/libc.so", "machines": 1, "locations": ["/images/m4"]}
    ]


def test_what_nearly_all_have_and_one_lacks(dataset: Path) -> None:
    for number in range(10):
        agent = [{"pid": 9, "exe": "/opt/agent"}] if number != 7 else []
        add_machine(dataset, f"m{number}", processes=[{"pid": 1, "exe": "/sbin/init"}, *agent])
    assert _ask(dataset, "SELECT trait, name, lack, locations FROM lacking") == [
        {"trait": "program", "name": "/opt/agent", "lack": 1, "locations": ["/images/m7"]}
    ]


def test_an_indicator_is_told_across_kinds(dataset: Path) -> None:
    hidden = [{"name": "evil", "listed": False}]
    add_machine(dataset, "web", role="web", modules=hidden)
    add_machine(dataset, "mail", role="mail", build="b2", modules=hidden)
    add_machine(dataset, "sound", role="mail", build="b2", modules=[{"name": "ext4"}])
    assert _ask(dataset, "SELECT indicator, name, machines, locations FROM indicators") == [
        {"indicator": "hidden module", "name": "evil", "machines": 2, "locations": ["/images/mail", "/images/web"]}
    ]


def test_a_file_laid_out_otherwise_is_rare_and_its_address_is_not_told(dataset: Path) -> None:
    for number in range(4):
        base = 0x7F0000000000 + number * 0x5000
        areas = [("r--p", 4096), ("r-xp", 8192), *([("rwxp", 4096)] if number == 2 else [])]
        starts = [base + 4096 * sum(size // 4096 for _, size in areas[:at]) for at in range(len(areas))]
        vmas = [
            {"mm": 1, "name": "/bin/a", "perms": perms, "size": size, "start": start}
            for (perms, size), start in zip(areas, starts, strict=True)
        ]
        add_machine(dataset, f"m{number}", vmas=vmas)
    assert _ask(dataset, "SELECT trait, name, locations FROM rarity") == [
        {"trait": "layout of a file", "name": "/bin/a: r--p 4K, r-xp 8K, rwxp 4K", "locations": ["/images/m2"]}
    ]


def test_names_that_are_no_text_have_rows(dataset: Path) -> None:
    name = os.fsdecode(b"host-\xff\n\x1b[2J.raw")
    add_machine(dataset, name, role="\udcff")
    (row,) = _ask(dataset, "SELECT location, role FROM images")
    assert row["location"].isprintable()
    assert row["role"].isprintable()
    assert "host-" in render_page(dataset)
