"""One image of a fleet: what a worker does with it. How it went is a row, whatever the image is."""

from __future__ import annotations

import gc
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from vmaforensics.errors import ExitCode, OutputError, UsageError, VmaForensicsError
from vmaforensics.fleet.dataset import write_report, write_rows
from vmaforensics.fleet.sources import local_file
from vmaforensics.fleet.tables import Outcome, image_row, rows_of_image
from vmaforensics.version import __version__
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from vmaforensics.fleet.sources import Source
    from vmaforensics.report.document.document import Document

CHARACTERS: Final = 2000  # of an error


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What every image of a run is analysed with. ``folder`` is that of the dataset, as workers reach it; ``version``
    is that of whoever asks."""

    folder: str
    version: str = __version__
    reports: bool = True
    sha256: bool = False
    symbols: tuple[str, ...] = ()


def other_version(where: str, found: str | None, wanted: str = __version__) -> str:
    """The sentence on a worker that has another version of this package, or none."""
    has = "no vmaforensics" if found is None else f"vmaforensics {printable(found)[:40]}"
    return f"the worker at {where} has {has}, and this is {wanted}: install one version everywhere"


class Told(NamedTuple):
    """What a task tells of its image, for whoever waits."""

    key: str
    location: str
    outcome: Outcome
    worst: str


def analyse_source(source: Source, options: Options) -> Told:
    """Analyse an image, write its rows and its report.

    Raises :class:`OutputError` where they cannot be written, :class:`UsageError` where another version asks: the run
    cannot go on.
    """
    if options.version != __version__:
        raise UsageError(other_version(platform.node(), __version__, options.version))
    began = time.monotonic()
    folder = Path(options.folder)
    try:
        return _analyse(source, options, folder, began)
    except OutputError:
        raise  # the dataset cannot be written: no row can say so, and no other image will fare better
    except VmaForensicsError as error:
        code, text = error.exit_code, str(error)
    except MemoryError:
        code, text = ExitCode.INTERNAL, "the worker has too little memory for it; give fewer --workers"
    except Exception as error:
        text = f"internal error: {type(error).__name__}: {error}; `vmaforensics report` of the image shows more"
        code = ExitCode.INTERNAL
    finally:
        gc.collect()  # an analysis has cycles, and the next one needs its room
    outcome = Outcome("failed", int(code), printable(text)[:CHARACTERS], time.monotonic() - began)
    write_failure(source, folder, outcome)
    return Told(source.key, source.location, outcome, "")


def write_failure(source: Source, folder: Path, outcome: Outcome) -> None:
    """The row of an image that could not be analysed, in place of all others it may have had."""
    write_report(folder, source.key, None)
    write_rows(folder, source.key, {"images": image_row(source, outcome)})


def _analyse(source: Source, options: Options, folder: Path, began: float) -> Told:
    from vmaforensics.analysis import analyse_image
    from vmaforensics.image.open import open_image
    from vmaforensics.report.document.build import build_document
    from vmaforensics.report.formats.html.render import render_html

    with local_file(source, folder) as path:
        image = open_image(path)
        if options.symbols:
            image = replace(image, symbols=[Path(name) for name in options.symbols])
        analysis = analyse_image(image)
        document = _located(build_document(analysis, sha256=options.sha256), source)
        code = ExitCode.OK if any(process.seen for process in document.processes) else ExitCode.INCOMPLETE
        outcome = Outcome("ok", int(code), "", time.monotonic() - began)
        tables = rows_of_image(source, document, analysis, outcome)
    write_report(folder, source.key, render_html(document) if options.reports else None)
    write_rows(folder, source.key, tables)
    return Told(source.key, source.location, outcome, str(tables["images"]["worst"][0]))


def _located(document: Document, source: Source) -> Document:
    """The document with the name by which the fleet knows the image, whatever copy of it was read."""
    file = msgspec.structs.replace(document.provenance.file, path=printable(source.location))
    origin = msgspec.structs.replace(document.provenance, file=file)
    return msgspec.structs.replace(document, provenance=origin)
