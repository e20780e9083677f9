"""The page over all machines: which of them to look at, what few of them have, what could not be read."""

from __future__ import annotations

from functools import cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

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
_SAID: Final = 160  # characters of a verdict; the report of the machine has it all
_RANK: Final = "list_position(['critical', 'high', 'medium', 'low', 'info'], worst)"

_MACHINES: Final = f"""
SELECT image, location, role, hostname, release, worst, {", ".join(SEVERITIES)}, acquired, crashed,
       left(verdict, {_SAID}) AS said, exists(SELECT 1 FROM reported r WHERE r.image = i.image) AS reported
FROM images i WHERE status = 'ok'
ORDER BY {_RANK} NULLS LAST, critical DESC, high DESC, medium DESC, crashed DESC, location
"""
_BASED: Final = ("baseline", "peerless")  # sections
# Anchor, title, what it says, the question, and its columns.
_SECTIONS: Final = (
    (
        "findings",
        "Findings by rule",
        "Of how many findings each rule has, and on how many machines.",
        f"SELECT * FROM findings_by_rule ORDER BY {_RANK.replace('worst', 'severity')}, machines DESC, rule",
    ),
    (
        "crashes",
        "The same crash",
        "Crashes with one fingerprint have the same functions on top of the stack.",
        "SELECT fingerprint, kind, functions, machines, locations FROM same_crash ORDER BY machines DESC, fingerprint",
    ),
    (
        "baseline",
        "Beyond the baseline",
        "What a machine has that none of its peers in the baseline has: same kernel build, same role.",
        "SELECT location, role, trait, name, peers FROM beyond_baseline",
    ),
    (
        "peerless",
        "Without peers",
        "Machines of which the baseline has none of the same kernel build and role: nothing was compared.",
        "SELECT location, role, release FROM without_peers ORDER BY location",
    ),
    (
        "rare",
        "Rare",
        "What few machines of a kind have. Most of it is innocent; what an intruder brings is here too.",
        'SELECT trait, name, seen, "of", role, locations FROM rarity ORDER BY share, seen, "of" DESC, trait, name',
    ),
    (
        "changed",
        "Changed code",
        "Pages of files that a minority of machines have otherwise: another version of the file, or a patch in memory.",
        'SELECT name, page, content, seen, "of", locations FROM changed_code ORDER BY seen, "of" DESC, name, page',
    ),
    (
        "content",
        "Executable memory without a file",
        "The same bytes, executable and of no file, on more than one machine.",
        "SELECT * FROM same_content WHERE machines > 1 ORDER BY machines DESC, content",
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


def render_page(folder: Path, baseline: Path | None = None) -> str:
    """The page of the dataset in ``folder``: complete in itself but for links to the reports beside it."""
    style, script = asset("style.css"), Markup(_templates().get_source(_environment(), "fleet.js")[0])
    connection = connect(folder, baseline)
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
            sections=[
                _section(connection, *about) for about in _SECTIONS if baseline is not None or about[0] not in _BASED
            ],
            few=_FEW,
            version=__version__,
            style=style,
            script=script,
            policy=policy(style, script),
        )
    )
    return str(page)


def _section(connection: Any, anchor: str, title: str, says: str, question: str) -> dict[str, Any]:  # noqa: ANN401
    found = rows(connection, f"SELECT * FROM ({question}) LIMIT {_FEW + 1}")
    return {
        "anchor": anchor,
        "title": title,
        "says": says,
        "question": question,
        "columns": list(found[0]) if found else [],
        "rows": [[_cell(value) for value in row.values()] for row in found[:_FEW]],
        "more": len(found) > _FEW,
    }


def _cell(value: object) -> str:
    """A value as it stands in a table; of lists the first few."""
    if isinstance(value, list):
        names = sorted(str(item) or "anonymous" for item in value)
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{value:,}" if isinstance(value, int) else str(value)


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
