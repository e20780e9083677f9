# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""volatility3 plugin: the bytes of regions in files, with a manifest of what is missing of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volatility3.framework import interfaces, renderers
from volatility3.framework.configuration import requirements

from vmaforensics.volatility.rows.extracting import COLUMNS, extract_rows
from vmaforensics.volatility.rows.files import Output
from vmaforensics.volatility.rows.session import Session, grid, layer_requirement, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.volatility.rows.regions import Row


class VmaExtract(interfaces.plugins.PluginInterface):  # type: ignore[misc]  # volatility3 is untyped
    """Writes the bytes of a region into a file, and a manifest that says what each of its pages is.

    Needs no symbol file. Give --pid with --address (the VMA that covers it, or the entries there that no VMA
    covers), --finding (the ID that linux.vmafindings.VmaFindings shows), or --pfn with --count (page frames). A page
    whose bytes are not in the image is written as zeros and listed. Files go to vol's -o directory.
    """

    _required_framework_version = (2, 26, 0)
    _version = (1, 0, 0)

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        numbers = (
            ("pid", "The process; goes with --address"),
            ("address", "A virtual address in the region of the process"),
            ("pfn", "The first of a number of page frames"),
            ("count", "How many page frames, with --pfn (default: 1)"),
            ("maxsize", "Most bytes to write (default: 4 GiB)"),
        )
        return [
            layer_requirement(),
            requirements.StringRequirement(name="finding", description="The ID of a finding", optional=True),
            *(requirements.IntRequirement(name=name, description=text, optional=True) for name, text in numbers),
        ]

    def run(self) -> interfaces.renderers.TreeGrid:
        return renderers.TreeGrid(COLUMNS, grid(self._rows()))

    def _rows(self) -> Iterator[Row]:
        from vmaforensics.export.extract import MOST_BYTES

        most = self.config.get("maxsize") or MOST_BYTES
        yield from extract_rows(self._session, Output(self.open), self.config.get, most)

    def _session(self) -> Session:
        from vmaforensics.views.gather import EXTRA

        return read(self.context, self.config["primary"], self._progress_callback, EXTRA)
