"""Every way a document can be shown: a table of formats. A renderer's module is loaded when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from vmaforensics.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vmaforensics.report.document.document import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format: a function of a document that gives ``bytes``, a ``str`` or pieces of bytes, and what people need to
    know of it."""

    name: str
    description: str  # what it is for, in a few words
    suffix: str  # of a file, with the dot
    function: str  # module:name
    binary: bool = False  # nothing for a terminal
    needs: str = ""  # module that is an optional part; its absence raises UsageError before anything is read
    options: tuple[str, ...] = ()  # keyword arguments the function takes
    tables: tuple[str, ...] = ()  # those of report/document/tables.py it can hold, its default first


_TABLES = ("findings", "evidence", "regions", "processes", "matches")

FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format(
            name="text",
            description="for the terminal",
            suffix=".txt",
            function="formats.text:render_text",
            options=("detail", "color", "width", "all_regions"),
        ),
        Format(
            name="json",
            description="everything; can be rendered again",
            suffix=".json",
            function="document.document:encoded_pieces",
        ),
        Format(
            name="jsonl",
            description="a finding per line, for jq and log pipelines",
            suffix=".jsonl",
            function="formats.jsonl:render_jsonl",
        ),
        Format(
            name="csv",
            description="one table, for spreadsheets",
            suffix=".csv",
            function="formats.csv_:render_csv",
            options=("table",),
            tables=_TABLES,
        ),
        Format(
            name="html",
            description="one file to open, forward or print",
            suffix=".html",
            function="formats.html:render_html",
        ),
        Format(
            name="markdown",
            description="for tickets and write-ups",
            suffix=".md",
            function="formats.markdown:render_markdown",
        ),
        Format(
            name="timesketch",
            description="a timeline for Timesketch",
            suffix=".jsonl",
            function="formats.timesketch:render_timesketch",
        ),
        Format(
            name="navigator",
            description="an ATT&CK Navigator layer",
            suffix=".json",
            function="formats.navigator:render_navigator",
        ),
        Format(
            name="stix",
            description="a STIX 2.1 bundle, for OpenCTI and MISP",
            suffix=".json",
            function="formats.stix:render_stix",
        ),
        Format(
            name="sarif",
            description="SARIF 2.1.0, for dashboards and viewers",
            suffix=".sarif",
            function="formats.sarif:render_sarif",
        ),
        Format(
            name="parquet",
            description="one table, for many images at once; needs pyarrow",
            suffix=".parquet",
            function="formats.parquet:render_parquet",
            binary=True,
            needs="pyarrow",
            options=("table",),
            tables=("regions", "findings", "evidence", "processes", "matches"),
        ),
    )
}


def require(form: Format) -> None:
    """Raise :class:`UsageError` if the format needs an optional part that is not installed."""
    if form.needs and find_spec(form.needs) is None:
        raise UsageError(
            f"the format {form.name} needs {form.needs}, which is not installed: "
            f"pip install 'vmaforensics[{form.name}]'"
        )


def render(document: Document, name: str = "text", options: Mapping[str, object] | None = None) -> bytes:
    """``document`` in the format called ``name``.

    ``options`` may hold what any renderer takes; each is given its own. Raises ``KeyError`` for an unknown
    format or table, :class:`~vmaforensics.errors.UsageError` where the format cannot show this document.
    """
    return b"".join(rendered_pieces(document, name, options))


def rendered_pieces(
    document: Document, name: str = "text", options: Mapping[str, object] | None = None
) -> Iterator[bytes]:
    """As :func:`render`, in pieces where the format can be made so: a long document is never in memory twice."""
    form = FORMATS[name]
    require(form)
    module, _, function = form.function.partition(":")
    chosen = {key: value for key, value in (options or {}).items() if key in form.options}
    shown = getattr(import_module(f"vmaforensics.report.{module}"), function)(document, **chosen)
    if isinstance(shown, str):
        yield shown.encode()
    elif isinstance(shown, bytes):
        yield shown
    else:
        yield from shown
