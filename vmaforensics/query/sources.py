"""Where tables come from: an image, a saved document, a folder of them. Nothing is read before it is asked for."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from vmaforensics.errors import UsageError
from vmaforensics.query.tables import NAMES, OF_DOCUMENTS, OF_IMAGES, for_duckdb, of_document
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from vmaforensics.image.image import Image
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.progress import Progress
    from vmaforensics.query.streamed import Streamed
    from vmaforensics.report.document.document import Document
    from vmaforensics.views.views import Views

Columns = dict[str, "NDArray[np.generic]"]
_MOST_DOCUMENTS = 1 << 14


class Source(Protocol):
    """Tables by name."""

    @property
    def names(self) -> Sequence[str]:
        """The tables there are."""
        ...

    def table(self, name: str) -> Columns | Streamed:
        """The columns of a table, one of ``names``, or what gives them bit by bit."""
        ...


class ImageSource:
    """The tables of an image: the analysis runs when one is asked for that needs it."""

    names = NAMES

    def __init__(self, image: Image, progress: Progress) -> None:
        self._image, self._progress = image, progress
        self._name = printable(str(image.path))

    @cached_property
    def _read(self) -> tuple[Kernel, Views]:
        from vmaforensics.kernel.find import find_kernel
        from vmaforensics.views.gather import gather_views

        kernel = find_kernel(self._image, self._progress)
        return kernel, gather_views(kernel, self._image.cpus, progress=self._progress)

    @cached_property
    def _document(self) -> Document:
        from vmaforensics.analysis import Analysis
        from vmaforensics.checks.context import Context
        from vmaforensics.checks.weigh import run_checks
        from vmaforensics.report.document.build import build_document

        kernel, views = self._read
        context = Context(views)
        findings = run_checks(context)
        analysis = Analysis(image=self._image, kernel=kernel, views=views, context=context, findings=findings)
        return build_document(analysis, contents=False, log=False)

    def table(self, name: str) -> Columns | Streamed:
        """The columns of a table, or what gives them bit by bit."""
        from vmaforensics.query.image_tables import ptes_table
        from vmaforensics.report.document.modules import modules_table

        if name in OF_DOCUMENTS:
            return for_duckdb(self._name, of_document(self._document, name))
        kernel, views = self._read
        if name == "ptes":
            return ptes_table(self._name, views)
        return for_duckdb(self._name, modules_table(kernel, views.road))


class DocumentsSource:
    """The tables of saved documents, one below the other."""

    names = tuple(OF_DOCUMENTS)

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    @cached_property
    def _documents(self) -> list[tuple[str, Document]]:
        from vmaforensics.report.document.saved import load

        return [(printable(str(path)), load(path)) for path in self._paths]

    def table(self, name: str) -> Columns:
        """The columns of a table. Raises :class:`UsageError` for one that only an image has."""
        if name in OF_IMAGES:
            raise UsageError(f"the table {name} needs the image, and {self._paths[0]} is a saved report")
        parts = [for_duckdb(path, of_document(document, name)) for path, document in self._documents]
        return {column: np.concatenate([part[column] for part in parts]) for column in parts[0]}


def documents_in(folder: Path) -> list[Path]:
    """The saved documents of a folder, by name. Raises :class:`UsageError` if it has none."""
    from vmaforensics.report.document.saved import is_saved

    found = sorted(path for path in folder.iterdir() if path.suffix == ".json" and is_saved(path))
    if not found:
        raise UsageError(f"the folder {folder} has no report that was saved with --format json")
    if len(found) > _MOST_DOCUMENTS:
        raise UsageError(f"the folder {folder} has more than {_MOST_DOCUMENTS} reports; see the verb fleet")
    return found
