"""The documentation names what the code has: rules, exit codes, verbs, the schema; and its links lead somewhere."""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vmaforensics.checks.registry import all_rules
from vmaforensics.cli.main import build_parser
from vmaforensics.errors import ExitCode
from vmaforensics.image.readers import _READERS
from vmaforensics.image.refused import _REFUSED
from vmaforensics.report.document.document import json_schema
from vmaforensics.report.document.parts import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.rule import Rule

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RULE_PAGE = (ROOT / "docs/rules/README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def _verbs() -> list[str]:
    (verbs,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return list(verbs.choices)


def _examples() -> Iterator[tuple[str, str, str]]:
    """Commands on bundled samples that pages show in blocks, with their page and what they say is printed."""
    for page in PAGES:
        for block in re.findall(r"^```\n(\$ .*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, shown = re.fullmatch(r"((?:[^\n]*[|\\]\n)*[^\n]*\n)(.*)", part, re.DOTALL).groups()  # type: ignore[union-attr]
                if command.startswith("vmaforensics ") and "samples/" in command:
                    yield page.name, command, shown


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_committed_schema_is_the_one_the_document_has() -> None:
    path = ROOT / f"docs/schema/report-{SCHEMA_VERSION}.json"
    assert path.read_text() == json.dumps(json_schema(), indent=2, sort_keys=True) + "\n", (
        "the document's classes have changed; docs/schema.md has the command that writes the schema"
    )


def test_the_page_of_the_rules_is_the_one_they_make() -> None:
    made = runpy.run_path(str(ROOT / "docs/rules/make_rules.py"))["page"]()
    assert made == RULE_PAGE, "the rules have changed; `make rules` writes the page"


def test_the_table_of_members_is_the_one_that_the_views_make() -> None:
    made = runpy.run_path(str(ROOT / "docs/make_members.py"))["page"]
    text = (ROOT / "docs/kernels.md").read_text()
    assert made(text) == text, "what views read has changed; `make members` writes the table"


def test_the_page_of_complaints_is_the_one_that_crash_makes() -> None:
    made = runpy.run_path(str(ROOT / "docs/complaints/make_complaints.py"))["page"]()
    page = (ROOT / "docs/complaints/README.md").read_text()
    assert made == page, "what crash says of complaints has changed; `make complaints` writes the page"


def test_every_rule_has_its_section_and_no_other_has() -> None:
    sections = re.findall(r"^## (\S+)$", RULE_PAGE, re.MULTILINE)
    assert sorted(sections) == sorted(rule.id for rule in all_rules())


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.id)
def test_the_section_of_a_rule_gives_its_title_and_severity(rule: Rule) -> None:
    section = RULE_PAGE.split(f"\n## {rule.id}\n")[1].split("\n## ")[0]
    assert f"**{rule.title}.**".casefold() in section.casefold()
    assert f"Severity {rule.severity.value}" in section


@pytest.mark.parametrize("code", list(ExitCode), ids=lambda code: code.name)
def test_the_readme_lists_every_exit_code(code: ExitCode) -> None:
    assert re.search(rf"^\| {int(code)} \| \S", README, re.MULTILINE)


@pytest.mark.parametrize("verb", _verbs())
def test_the_readme_names_every_verb(verb: str) -> None:
    assert f"`vmaforensics {verb} " in README


def test_formats_that_are_recognised_are_documented() -> None:
    page = (ROOT / "docs/formats.md").read_text()
    for magic, _ in _READERS:
        text = magic.decode("latin-1").replace("\x7f", r"\x7f")
        assert f"`{text}`" in page
    for _, name, _ in _REFUSED:
        word = re.sub(r"^an? |-compressed file$| (file|dump|archive|stream|container)\b.*$", "", name).split(" or ")[0]
        assert word.split()[0].lower() in page.lower(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        assert not anchor or anchor in _anchors(other), target


@pytest.mark.image
@pytest.mark.parametrize(
    ("page", "command", "shown"), [pytest.param(*row, id=f"{row[0]}: {row[1].split(' |')[0]}") for row in _examples()]
)
def test_a_command_on_a_sample_prints_what_its_page_shows(page: str, command: str, shown: str, tmp_path: Path) -> None:
    """In the order of the page; … stands for any number of lines, or for the rest of one, and blanks do not count."""
    if "jq " in command and shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    run = f'vmaforensics() {{ {shlex.quote(sys.executable)} -m vmaforensics "$@"; }}\n{command}'
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    done = subprocess.run(
        ["bash", "-c", run], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    printed = iter([" ".join(line.split()) for line in done.stdout.splitlines()])
    for line in shown.splitlines():
        wanted = " ".join(line.split())
        pattern = ".*".join(map(re.escape, wanted.split("…")))
        # any() takes lines up to the first that fits, so that their order counts.
        assert wanted in ("", "…") or any(re.search(pattern, other) for other in printed), f"{page}: {line}"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="the docs extra is not installed")
    folders = [str(ROOT / "docs"), str(tmp_path / "site")]
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(tmp_path / "trees"), *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {page.relative_to(tmp_path / "site").as_posix() for page in (tmp_path / "site").rglob("*.html")}
    assert {"index.html", "views.html", "rules/README.html"} <= pages
