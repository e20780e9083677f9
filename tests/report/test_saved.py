"""Saved reports: known from images, and believed only after a look at every value that is used as a number."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from support import bundled

from vmaforensics.errors import ExitCode, UsageError
from vmaforensics.report.document.diff import compare
from vmaforensics.report.document.document import encode
from vmaforensics.report.document.saved import DocumentInvalidError, is_saved, parse
from vmaforensics.report.formats.diff_text import render_diff
from vmaforensics.report.formats.render import FORMATS, render

from .hostile import handmade, inert, tampered_document, tampered_sample

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Raw = dict[str, Any]
TRIES = 100


@pytest.fixture
def raw() -> Raw:
    """The tampered sample's report as plain JSON."""
    found: Raw = json.loads(encode(tampered_document()))
    return found


def test_a_report_is_told_from_an_image_however_it_is_laid_out(tmp_path: Path, raw: Raw) -> None:
    path = tmp_path / "case"
    for text in (json.dumps(raw), json.dumps(raw, indent=2, sort_keys=True), "\ufeff" + json.dumps(raw)):
        path.write_text(text)
        assert is_saved(path)
        assert parse(path.read_bytes().removeprefix(b"\xef\xbb\xbf")) == tampered_document()
    assert not any(is_saved(sample.image_path) for sample in bundled())
    path.write_bytes(b'{"a' + bytes(100))
    assert not is_saved(path)
    assert not is_saved(tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"schema": {"name": "vmaforensics-report", "version": "2.9"}}', "is of schema 2.9, newer than the 2.1"),
        (b'{"schema": {"name": "vmaforensics-report", "version": "3.0", "x": 1}}', "is of schema 3.0, newer"),
        (b'{"schema": {"name": "vmaforensics-report", "version": "1.0"}}', "is of schema 1.0, older than the 2.1"),
        (b'{"schema": {"name": "vmaforensics-report", "version": "two"}}', "has no readable schema version"),
        (b'{"schema": {"name": "vmaforensics-views", "version": "1.0"}}', "is a 'vmaforensics-views' document"),
        (b'{"schema": {"name": "vmaforensics-report", "version": "2.0"}}', "missing required field `image`"),
        (b'{"schema": 7}', "Expected `object | null`, got `int`"),
        (b'{"some": "thing"}', "has no schema"),
        (b'{"some": "thi', "is not a report that can be rendered"),
        (b'{"schema": {"name": "\xff", "version": "2.0"}}', "is not a report that can be rendered"),
        (b'{"schema": {"name": "\xed\xa0\x80", "version": "2.0"}}', "is not a report that can be rendered"),
        (b'{"schema": {"name": "\\ud800", "version": "2.0"}}', "is not a report that can be rendered"),
        (b'{"some": ' + b"[" * 200_000, "is not a report that can be rendered"),
    ],
)
def test_what_is_no_report_ends_with_20_and_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "case.json"
    path.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-m", "vmaforensics", "report", path], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == ExitCode.DOCUMENT_INVALID, done.stderr
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1
    assert says in done.stderr.decode()
    assert str(path) in done.stderr.decode()


def _deep(raw: Raw, *path: str | int) -> tuple[Any, str | int]:
    value: Any = raw
    for step in path[:-1]:
        value = value[step]
    return value, path[-1]


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("findings", 0, "start"), "0xzz", "is no address"),
        (("findings", 0, "mm"), "", "is no address"),
        (("findings", 0, "evidence", 0, "address"), "0x" + "f" * 17, "is no address"),
        (("findings", 0, "severity"), "awful", "Invalid enum value"),
        (("findings", 0, "pid"), 1 << 80, "is out of range"),
        (("processes", 0, "task"), "0x1\n0x2", "is no address"),
        (("processes", 0, "started"), "2026-02-30T00:00:00Z", "is no time"),
        (("processes", 0, "started"), "20260101", "is no time"),
        (("processes", 0, "regions", 0, "inode"), -1, "out of range"),
        (("processes", 0, "regions", 0, "flags"), "0xZ", "is no address"),
        (("processes", 0, "regions", 0, "seen", "maple"), "javascript:", "is no address"),
        (("processes", 0, "counters", 0, "stored"), 1 << 65, "is out of range"),
        (("findings", 0, "dumps", 0, "data"), "0g", "are no bytes"),
        (("findings", 0, "dumps", 0, "data"), "00" * 65, "are no bytes"),
        (("kernel", "clock"), "yesterday", "is no time"),
        (("not_assessed",), [{"what": "", "why": "", "count": 1 << 64}], "is out of range"),
        (("unknown",), 1, "unknown field"),
    ],
)
def test_a_value_that_no_report_holds_is_refused(
    raw: Raw, path: tuple[str | int, ...], value: object, says: str
) -> None:
    holder, last = _deep(raw, *path)
    holder[last] = value
    with pytest.raises(DocumentInvalidError, match=says):
        parse(json.dumps(raw).encode())


def test_a_report_that_was_tampered_with_is_refused_or_shown_and_never_breaks_a_renderer(raw: Raw) -> None:
    """Values of every part exchanged at random, in reports that are read as far as they can be."""
    rng = random.Random(5)
    raw["processes"] = [one for one in raw["processes"] if one["pid"] in (1, 152, 172)]
    raw["kernel"] |= {"clock": "2026-01-01T00:00:00Z", "booted": "2026-01-01T00:00:00Z"}
    whole = json.dumps(raw)
    values: list[object] = [
        None,
        "",
        "0x0",
        "0x10000000000000000",
        "0xffffffffffffffff",
        "high",
        "maple tree",
        "2026-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "0001-01-01T00:00:00Z",
        "00",
        "A" * 5000,
        0,
        1,
        -1,
        (1 << 63) - 1,
        True,
        [],
        {},
    ]
    shown = 0
    for _ in range(TRIES):
        changed = json.loads(whole)
        for _ in range(rng.choice((1, 1, 3, 30))):
            _exchange(rng, changed, values)
        try:
            document = parse(json.dumps(changed).encode())
        except DocumentInvalidError:
            continue
        shown += 1
        asked: list[tuple[str, dict[str, object]]] = [
            *((form, {}) for form in FORMATS if form != "timesketch"),
            ("csv", {"table": "regions"}),
            ("csv", {"table": "processes"}),
            ("csv", {"table": "evidence"}),
            ("text", {"detail": 2}),
            ("text", {"detail": 1, "all_regions": True, "width": 60}),
        ]
        for name, options in asked:
            assert render(document, name, options)
        with contextlib.suppress(UsageError):
            render(document, "timesketch")
        with contextlib.suppress(UsageError):
            assert render_diff(compare(tampered_document(), document), detail=2)
    assert shown > TRIES // 10


def _exchange(rng: random.Random, value: Any, values: list[object]) -> None:  # noqa: ANN401
    """Put one of ``values`` in some place of ``value``, or take out or repeat what stands there."""
    while True:
        place = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if value[place] and isinstance(value[place], dict | list) and rng.random() < 0.95:
            value = value[place]
        elif isinstance(value, list) and rng.random() < 0.3:
            value[place : place + 1] = [] if rng.random() < 0.5 else [value[place]] * 2
            return
        else:
            value[place] = rng.choice(values)
            return


def test_a_total_beyond_a_signed_number_is_no_error(raw: Raw) -> None:
    raw["processes"][0]["counters"][0]["stored"] = (1 << 64) - 1
    document = parse(json.dumps(raw).encode())
    for name in FORMATS:
        if name != "timesketch":
            assert render(document, name, {"table": "processes"})


@pytest.mark.parametrize("dump", [json.dumps, lambda value: json.dumps(value, ensure_ascii=False)])
def test_strings_of_a_report_from_elsewhere_are_made_printable(raw: Raw, dump: Callable[[object], str]) -> None:
    raw["processes"][0]["comm"] = "\x1b[2J\u202e\n"
    document = parse(dump(raw).encode())
    assert document.processes[0].comm == "\\x1b[2J\\u202e\\x0a"


def test_a_hostile_report_saved_and_read_stays_inert() -> None:
    shown = encode(handmade(tampered_document()))
    assert inert(shown.decode())
    assert inert(encode(parse(shown)).decode())


def test_json_writes_what_hides_as_escapes_of_the_same_character(raw: Raw) -> None:
    from vmaforensics.report.document.json_text import json_text

    text = "a\u202eb\x9b\u200b\U000e0041\x7f\u00adé\U0001f600"
    shown = json_text({"comm": text})
    assert inert(shown.decode())
    assert json.loads(shown) == {"comm": text}
    assert "é\U0001f600".encode() in shown
    assert json.loads(json_text(["\ud800x"])) == ["\\ud800x"]


def test_a_report_of_another_sample_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    path.write_bytes(encode(tampered_document()))
    done = subprocess.run(
        [sys.executable, "-m", "vmaforensics", "report", path], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith(b"VERDICT")
    assert str(tampered_sample().image_path).encode() in done.stdout
