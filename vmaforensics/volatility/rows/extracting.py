# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""Rows for volatility3's grids: files that regions were extracted to, and what their pages are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from volatility3.framework.renderers import format_hints

from vmaforensics.errors import UsageError
from vmaforensics.export.page_source import STATES
from vmaforensics.volatility.rows.regions import NOT_APPLICABLE, Row
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmaforensics.export.extract import Region, Written
    from vmaforensics.volatility.rows.files import Output
    from vmaforensics.volatility.rows.session import Session

COLUMNS: list[tuple[str, type]] = [
    ("PID", int),
    ("Start", format_hints.Hex),
    ("End", format_hints.Hex),
    ("What", str),
    *((f"Pages {name}", int) for name in STATES),
    ("SHA-256", str),
    ("File output", str),
]


def extract_rows(
    session: Callable[[], Session], output: Output, option: Callable[[str], Any], most: int
) -> Iterator[Row]:
    """One row of :data:`COLUMNS` per region, and one for the manifest, after they were written.

    ``option`` gives the plugin's options: ``pid`` with ``address``, ``finding``, or ``pfn`` with ``count``.
    Raises the errors of ``extract``.
    """
    from vmaforensics.export.extract import MANIFEST, check_size, extract

    asked = {name: option(name) for name in ("address", "finding", "pfn") if option(name) is not None}
    if len(asked) != 1 or ("address" in asked) != (option("pid") is not None):
        raise UsageError("say what to extract: --pid with --address, --finding, or --pfn (with --count)")
    read = session()
    regions = _regions(read, asked, option)
    check_size(regions, most)
    facts: dict[str, object] = {"image": printable(str(read.image.path)), "image_size": read.image.size}
    if "finding" in asked:
        facts["finding"] = printable(asked["finding"])
    written = extract(read.kernel, read.views, regions, output, facts)
    for written_region in written:
        yield _row(written_region, output)
    yield (*(NOT_APPLICABLE for _ in COLUMNS[:-1]), output.names[MANIFEST])


def _regions(session: Session, asked: dict[str, Any], option: Callable[[str], Any]) -> list[Region]:
    from vmaforensics.checks.context import Context
    from vmaforensics.checks.weigh import run_checks
    from vmaforensics.export.extract_regions import finding_regions, frame_regions, process_regions

    if "finding" in asked:
        return finding_regions(session.views, run_checks(Context(session.views)), str(asked["finding"]))
    if "pfn" in asked:
        return frame_regions(session.kernel, int(asked["pfn"]), int(option("count") or 1))
    return process_regions(session.views, int(option("pid")), int(asked["address"]))


def _row(region_file: Written, output: Output) -> Row:
    region = region_file.region
    pid: Any = NOT_APPLICABLE if region.pid is None else region.pid
    counts = (region_file.counts.get(name, 0) for name in STATES)
    bounds = (format_hints.Hex(region.start), format_hints.Hex(region.end))
    return (pid, *bounds, region.what, *counts, region_file.sha256, output.names[region.file])
