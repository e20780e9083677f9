"""Which views a kernel would give, by its types alone: the part of ``doctor`` that looks at a symbol file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.errors import KernelNotFoundError, SymbolFileError, VmaForensicsError
from vmaforensics.kernel.symbols.given import open_symbol_file
from vmaforensics.views.needs import INDICES, NEEDED, available

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vmaforensics.cli.doctor_image import Line
    from vmaforensics.views.needs import Available

_MOST = 4  # members named of one view


def examine_types(path: Path) -> tuple[list[Line], VmaForensicsError | None]:
    """What can be said of the types in the file at ``path``, and why no report of its kernel could be made, if so."""
    file = open_symbol_file(path)
    if not len(file):
        return [], SymbolFileError(f"{path} has symbols and no types; give BTF, or vmlinux with debugging information")
    views = available(file)
    lines = [("ok", f"{path}: {len(file)} types"), *_lines(views)]
    missing = {view.view for view in views if view.lacks}
    if missing.intersection(NEEDED) or missing.issuperset(INDICES):
        return lines, KernelNotFoundError(
            f"the types of {path} are not those of a kernel that can be read: a report needs the views "
            f"{', '.join(NEEDED)}, and one of {', '.join(INDICES)}"
        )
    return lines, None


def _lines(views: list[Available]) -> Iterator[Line]:
    for view in views:
        if not view.lacks:
            yield "ok", f"view {view.view}"
            continue
        more = f" and {len(view.lacks) - _MOST} more" if len(view.lacks) > _MOST else ""
        yield "lacks", f"view {view.view}: {', '.join(view.lacks[:_MOST])}{more}"
