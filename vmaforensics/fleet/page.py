"""The page over all machines: which of them to look at, what few of them have, what could not be read."""

from __future__ import annotations

from functools import cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import jinja2
from markupsafe import Markup

from vmaforensics.fleet.queries import connect, rows
from vmaforensics.report.document.verdict import SEVERITIES
from vmaforensics.report.formats.html.render import asset, environment, policy
from vmaforensics.version import __version__
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from pathlib import Path

_MOST: Final = 2000  # machines
_FEW: Final = 100  # rows of any other table
_NAMED: Final = 5  # lines of a cell
_SAID: Final = 300  # characters of what is said of a machine; its report has it all
_RANK: Final = "list_position(['critical', 'high', 'medium', 'low', 'info'], worst)"

_MACHINES: Final = f"""
SELECT image, location, role, hostname, release, worst, {", ".join(SEVERITIES)}, acquired, crashed,
       left(verdict, {_SAID}) AS said, coalesce(told.different, 0) AS different, told.foremost AS found,
       coalesce(odd.rare, 0) AS rare, odd.foremost AS odd,
       exists(SELECT 1 FROM reported r WHERE r.image = i.image) AS reported
FROM images i LEFT JOIN told USING (image) LEFT JOIN odd USING (image) WHERE status = 'ok'
ORDER BY {_RANK} NULLS LAST, critical DESC, high DESC, medium DESC, crashed DESC, rare DESC, location
"""
_BASED: Final = ("baseline", "peerless")  # sections
# Anchor, title, what it says, the question, and its columns.
_SECTIONS: Final = (
    (
        "indicators",
        "The same on several machines",
        "What hides or takes part on more than one machine, whatever their kinds: where else is what one of them has?",
        "SELECT indicator, name, machines, locations FROM indicators",
    ),
    (
        "rare",
        "Rare",
        "What few machines of a kind (kernel build and role) have, what tells most first; most of it is innocent.",
        'SELECT trait, names, seen, "of", role, locations FROM rare_together',
    ),
    (
        "baseline",
        "Beyond the baseline",
        "What machines have that none of their peers in the baseline has: same kernel build, same role.",
        "SELECT trait, name, machines, role, peers, locations FROM beyond_baseline_together",
    ),
    (
        "peerless",
        "Without peers",
        "Machines of which the baseline has none of the same kernel build and role: nothing was compared.",
        "SELECT location, role, release FROM without_peers ORDER BY location",
    ),
    (
        "changed",
        "Changed code",
        "Pages that a minority of machines has otherwise, in files that are alike elsewhere: a patch in memory.",
        'SELECT name, page, content, seen, "of", locations FROM changed_code',
    ),
    (
        "lacking",
        "Lacking",
        "Modules and programs that nine of ten machines of a kind have, and which have not: what was stopped there?",
        'SELECT trait, name, lack, "of", role, locations FROM lacking',
    ),
    (
        "crashes",
        "The same crash",
        "Crashes with one fingerprint have the same functions on top of the stack.",
        "SELECT fingerprint, kind, functions, machines, locations FROM same_crash ORDER BY machines DESC, fingerprint",
    ),
    (
        "findings",
        "Findings by rule",
        "Of how many findings each rule has, and on how many machines.",
        "SELECT severity, rule, title, findings, machines, locations FROM findings_by_rule",
    ),
    (
        "versions",
        "Other versions",
        "Files of which a machine has another version in memory than most machines of its kernel build.",
        "SELECT name, machines, locations FROM other_versions_together",
    ),
    (
        "kernels",
        "Kernels",
        "Machines of one kernel build and role are a kind: what is rare is rare among them.",
        "SELECT release, build, role, machines FROM kinds ORDER BY machines DESC, release, role",
    ),
    (
        "unreadable",
        "Could not be read",
        "These were not looked at. Exit codes are those of the command line.",
        "SELECT location, role, status, exit_code, error FROM unreadable ORDER BY location",
    ),
)


class Cell(NamedTuple):
    """What a cell shows: lines, how many more there are, and whether it is a number."""

    lines: tuple[str, ...]
    more: int
    number: bool


def render_page(folder: Path, baseline: Path | None = None) -> str:
    """The page of the dataset in ``folder``: complete in itself but for links to the reports beside it."""
    style, script = asset("style.css") + _asset("fleet.css"), _asset("fleet.js")
    connection = connect(folder, baseline, kept=True)
    keys = sorted(path.stem for path in (folder / "reports").glob("*.html"))
    connection.execute("CREATE TABLE reported (image VARCHAR)")
    if keys:
        connection.execute("INSERT INTO reported SELECT unnest(?)", [keys])
    machines = rows(connection, f"{_MACHINES} LIMIT {_MOST}")
    common = _common([row["location"] for row in machines])
    total = rows(
        connection,
        "SELECT count(*) AS images, count(*) FILTER (status = 'ok' AND processes > 0) AS analysed, "
        "count(*) FILTER (crashed) AS crashed, count(*) FILTER (worst IN ('critical', 'high', 'medium')) AS serious, "
        "coalesce(sum(processes), 0)::BIGINT AS processes, coalesce(sum(vmas), 0)::BIGINT AS vmas FROM images",
    )[0]
    sections = [
        _section(connection, common, *about) for about in _SECTIONS if baseline is not None or about[0] not in _BASED
    ]
    page = (
        _environment()
        .get_template("fleet.html")
        .render(
            total=total,
            tone=_tone(machines, total),
            counts=_counts(connection),
            machines=machines,
            common=common,
            further=max(total["images"] - len(machines) - _unanalysed(connection), 0),
            severities=SEVERITIES,
            sections=[section for section in sections if section["rows"]],
            nothing=[section["title"] for section in sections if not section["rows"]],
            few=_FEW,
            version=__version__,
            style=style,
            script=script,
            policy=policy(style, script),
        )
    )
    return str(page)


def _section(
    connection: Any,  # noqa: ANN401
    common: str,
    anchor: str,
    title: str,
    says: str,
    question: str,
) -> dict[str, Any]:
    found = rows(connection, f"SELECT * FROM ({question}) LIMIT {_FEW + 1}")
    return {
        "anchor": anchor,
        "title": title,
        "says": says,
        "question": question,
        "columns": list(found[0]) if found else [],
        "rows": [[_cell(value, common) for value in row.values()] for row in found[:_FEW]],
        "more": len(found) > _FEW,
    }


def _cell(value: object, common: str) -> Cell:
    """A value as it stands in a table: of lists the first few, of locations what they have not in common."""
    if isinstance(value, list):
        names = [str(item).removeprefix(common) or "anonymous" for item in value]
        return Cell(tuple(names[:_NAMED]), max(len(names) - _NAMED, 0), number=False)
    if isinstance(value, int):
        return Cell((f"{value:,}",), 0, number=True)
    return Cell((str(value).removeprefix(common),), 0, number=False)


def _counts(connection: Any) -> dict[str, int]:  # noqa: ANN401
    found = rows(connection, "SELECT worst, count(*) AS machines FROM images WHERE status = 'ok' GROUP BY worst")
    by_worst = {row["worst"]: row["machines"] for row in found}
    return {severity: by_worst.get(severity, 0) for severity in SEVERITIES}


def _unanalysed(connection: Any) -> int:  # noqa: ANN401
    return int(rows(connection, "SELECT count(*) AS n FROM images WHERE status <> 'ok'")[0]["n"])


def _common(locations: list[str]) -> str:
    """The folder that all of these lie in, with a slash behind it; empty for none."""
    folders = [location.split("/")[:-1] for location in locations]
    shared = [names[0] for names in takewhile(lambda names: len(set(names)) == 1, zip(*folders, strict=False))]
    return "".join(f"{name}/" for name in shared)


def _tone(machines: list[dict[str, Any]], total: dict[str, Any]) -> str:
    worst = machines[0]["worst"] if machines else ""
    if worst in SEVERITIES[:3]:
        return str(worst)
    return "clear" if total["analysed"] == total["images"] and total["analysed"] else "unknown"


def _asset(name: str) -> Markup:
    """A file of this package's templates, as it is."""
    return Markup(_templates().get_source(_environment(), name)[0])


@cache
def _environment() -> jinja2.Environment:
    """That of the reports, with the templates of this package before it."""
    made = environment().overlay(loader=jinja2.ChoiceLoader([_templates(), _of_reports()]))
    made.filters.setdefault("counted", counted)
    return made


def _templates() -> jinja2.PackageLoader:
    return jinja2.PackageLoader("vmaforensics.fleet", "templates")


def _of_reports() -> jinja2.BaseLoader:
    loader = environment().loader
    assert loader is not None
    return loader
