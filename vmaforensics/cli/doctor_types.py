"""Which views a kernel would give, by its types alone: the part of ``doctor`` that looks at a BTF file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.errors import KernelNotFoundError, VmaForensicsError
from vmaforensics.kernel.structures.btf_file import read_btf
from vmaforensics.views.needs import INDICES, NEEDED, available

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vmaforensics.cli.doctor_image import Line
    from vmaforensics.views.needs import Available

_MOST = 4  # members named of one view


def examine_types(path: Path) -> tuple[list[Line], VmaForensicsError | None]:
    """What can be said of the BTF file at ``path``, and why no report of such a kernel could be made, if so."""
    types = read_btf(path)
    views = available(types)
    lines = [("ok", f"{path}: BTF, {len(types)} types"), *_lines(views)]
    if types.problem:
        lines.append(("note", f"the BTF is {types.problem}"))
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
