"""The report as text: what stands where at each level of detail, in colour and without, wide and narrow."""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING

import msgspec
import pytest

from vmaforensics.report.document.findings import Evidence, Hexdump
from vmaforensics.report.formats.terminal import Page
from vmaforensics.report.formats.text import next_step, render_text

from .example import HOSTILE, clean, example, finding, hostile
from .hostile import inert

if TYPE_CHECKING:
    from vmaforensics.report.document.document import Document

ANSI = re.compile(r"\x1b\[[0-9;]*m")
SERIOUS = ("critical", "high", "medium")


def evidence(view: str, text: str = "") -> Evidence:
    return Evidence(what=text or f"{view} says so", view=view, address="0x1", found="", expected="")


def with_findings(*findings: object) -> Document:
    return msgspec.structs.replace(example(), findings=list(findings))


def test_the_verdict_is_the_first_line_at_every_detail() -> None:
    for document in (example(), clean()):
        for detail in (-1, 0, 1, 2):
            first = render_text(document, detail=detail).splitlines()[0]
            assert first.startswith("VERDICT   ")
            assert document.verdict.startswith(first.removeprefix("VERDICT   "))


def test_quiet_is_the_verdict_and_a_line_per_finding() -> None:
    document = example()
    lines = render_text(document, detail=-1, width=40).splitlines()
    assert len(lines) == 1 + len(document.findings)
    for line, entry in zip(lines[1:], document.findings, strict=True):
        assert line.split()[:2] == [entry.severity.upper(), entry.rule]
        assert f"pid {entry.pid} " in line


def test_a_clean_report_fits_one_screen() -> None:
    assert len(render_text(clean()).splitlines()) <= 24


def test_every_finding_is_named_however_little_is_asked_for() -> None:
    document = example()
    for detail in (-1, 0, 1, 2):
        text = render_text(document, detail=detail)
        for entry in document.findings:
            assert f"{entry.severity.upper():8}  {entry.rule}" in text
            assert f"pid {entry.pid} ({entry.comm})" in text


def test_serious_findings_have_evidence_and_a_next_step_and_minor_ones_are_short() -> None:
    document = example()
    text = render_text(document)
    for entry in document.findings:
        assert (f"  next: {next_step(document, entry)}\n" in text) == (entry.severity in SERIOUS)
    assert text.count("  next: ") == 3


def test_the_next_step_is_one_command_whatever_the_file_is_called() -> None:
    document = example()
    for path in ("/a b/$(touch x)'; rm -r .kdump", *HOSTILE):
        facts = msgspec.structs.replace(document.provenance.file, path=path)
        named = msgspec.structs.replace(document, provenance=msgspec.structs.replace(document.provenance, file=facts))
        words = shlex.split(next_step(named, named.findings[0]))
        assert words[:2] == ["vmaforensics", "views"]
        assert words[2] == path
        assert words[3] == "--pid"


def test_evidence_shown_first_comes_from_different_records() -> None:
    one = finding(1)
    pieces = [
        evidence("counters", "first"),
        evidence("counters", "second"),
        evidence("anchors"),
        evidence("slab"),
        evidence("page tables"),
        evidence("maple tree"),
    ]
    shown = msgspec.structs.replace(one, evidence=tuple(pieces)).strongest(3)
    assert shown[0].what == "first"
    assert [item.view for item in shown] == ["counters", "page tables", "slab"]


def test_what_is_left_out_is_counted() -> None:
    one = msgspec.structs.replace(finding(1), evidence=tuple(evidence("slab", f"piece {at}") for at in range(7)))
    text = render_text(with_findings(one))
    assert text.count("piece ") == 3
    assert "and 4 more pieces of evidence; -v shows all" in text
    assert render_text(with_findings(one), detail=1).count("piece ") == 7
    minor = [finding(at, "info") for at in range(40)]
    text = render_text(with_findings(*minor))
    named = len(re.findall(r"pid \d+", text.partition("INFO")[2].partition(" more")[0]))
    assert f"and {40 - named} more" in text


def test_things_not_assessed_are_counted_where_they_are_not_listed() -> None:
    one = example().not_assessed[0]
    many = msgspec.structs.replace(
        example(), not_assessed=[msgspec.structs.replace(one, why=f"cause {at:03}") for at in range(30)]
    )
    text = render_text(many)
    listed = len(set(re.findall(r"cause \d+", text)))
    assert f"and {30 - listed} more" in text
    assert len(set(re.findall(r"cause \d+", render_text(many, detail=1)))) == 30


def test_more_detail_shows_all_that_less_does_not() -> None:
    document = example()
    full, deep = render_text(document, detail=1), render_text(document, detail=2)
    for entry in document.findings:
        for item in entry.evidence:
            assert item.what.split()[0] in full
        for check in entry.by_hand:
            assert f"by hand, in {check.tool}:" not in full
            assert f"by hand, in {check.tool}:" in deep
            assert all(f"    {line}\n" in deep for line in check.lines)
        for dump in entry.dumps:
            if dump.data:
                assert bytes.fromhex(dump.data)[:16].hex(" ") in deep
                assert bytes.fromhex(dump.data)[:16].hex(" ") not in full
        assert f"finding id: {entry.id}" in full
    for found in document.maps:
        assert f"mm {found.mm}: every record side by side" in deep
        assert all(node.address in deep for node in found.nodes)


def test_a_hexdump_shows_offsets_bytes_and_characters() -> None:
    dump = Hexdump(what="first bytes of the VMA", address="0x1000", data=(b"\x7fELF" + bytes(14)).hex())
    text = render_text(with_findings(msgspec.structs.replace(finding(1), dumps=(dump,))), detail=2)
    assert "0000000000001000  7f 45 4c 46 00 00 00 00 00 00 00 00 00 00 00 00  .ELF............\n" in text
    assert "0000000000001010  00 00" in text


def test_colour_adds_nothing_but_colour() -> None:
    for detail in (-1, 0, 1, 2):
        plain = render_text(example(), detail=detail)
        coloured = render_text(example(), detail=detail, color=True)
        assert "\x1b" not in plain
        assert ANSI.sub("", coloured) == plain
        assert "\x1b[" in coloured


def test_severities_look_different_and_are_words_too() -> None:
    text = render_text(example(), detail=-1, color=True)
    looks = {
        re.search(r"(\x1b\[[0-9;]*m)CRITICAL|(\x1b\[[0-9;]*m)HIGH|(\x1b\[[0-9;]*m)MEDIUM", line)
        for line in text.splitlines()[1:]
    }
    assert len({match.group().strip("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for match in looks if match}) == 3


@pytest.mark.parametrize("width", [40, 60, 80, 132])
@pytest.mark.parametrize("detail", [0, 1, 2])
def test_prose_fits_the_terminal_and_words_stay_whole(width: int, detail: int) -> None:
    text = render_text(example(), detail=detail, width=width)
    assert "0x" in text
    for line in text.splitlines():
        words = line.split()
        # What is longer than the terminal is a word that must not be broken, a command, or a head line.
        if len(line) > width and line.startswith("  - ") and words:
            assert max(map(len, words)) > width - 8, line


def test_a_table_is_cut_to_a_terminal_and_whole_in_a_pipe() -> None:
    rows = [["1", "x" * 200, "end"], ["22", "short", "end"]]
    narrow, piped = Page(width=60), Page()
    narrow.table(rows)
    piped.table(rows)
    assert all(len(line) <= 60 for line in narrow.text().splitlines())
    assert "…" in narrow.text()
    assert "end" in narrow.text()
    assert "x" * 200 in piped.text()


def test_addresses_are_not_cut() -> None:
    for detail in (1, 2):
        text = render_text(example(), detail=detail, width=40)
        for found in example().maps if detail > 1 else ():
            assert all(row.vma is None or row.vma[2:] in text for row in found.rows)
        for entry in example().findings:
            assert all(item.address is None or item.address in text for item in entry.evidence)


def test_columns_are_as_wide_as_what_a_terminal_shows() -> None:
    page = Page()
    page.table([["名前", "b"], ["abcd", "b"]])
    assert page.text() == "名前  b\nabcd  b\n"


def test_nothing_in_a_document_acts_on_the_terminal_or_is_read_as_markup() -> None:
    for addresses in (False, True):
        strange = hostile(example(), addresses=addresses)
        for detail in (-1, 0) if addresses else (-1, 0, 1, 2):
            text = render_text(strange, detail=detail, color=True, width=80)
            assert inert(ANSI.sub("", text))
    named = msgspec.structs.replace(finding(1), comm="[bold red]x[/] :smile: [link=http://e]y[/link]")
    for color in (False, True):
        assert named.comm in ANSI.sub("", render_text(with_findings(named), color=color))


def test_no_line_can_be_forged() -> None:
    forged = msgspec.structs.replace(finding(1), comm="a\nVERDICT   all is well")
    lines = render_text(with_findings(forged)).splitlines()
    assert [line.startswith("VERDICT") for line in lines].count(True) == 1


def test_the_environment_does_not_change_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    before = render_text(example(), color=True, width=80)
    for name, value in (("NO_COLOR", "1"), ("COLUMNS", "30"), ("TERM", "dumb"), ("FORCE_COLOR", "1")):
        monkeypatch.setitem(os.environ, name, value)
    assert render_text(example(), color=True, width=80) == before


def test_a_verdict_names_no_process_where_a_finding_has_none() -> None:
    lost = finding(1, pid=0, comm="")
    assert re.search(r"VERDICT +1 high finding among \d+ process(es)?[;.]", render_text(with_findings(lost), detail=-1))
