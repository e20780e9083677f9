# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""volatility3 plugin: every memory region of every process, and which of the kernel's records know it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volatility3.framework import interfaces, renderers
from volatility3.framework.configuration import requirements

from vmaforensics.volatility.regions import COLUMNS, Row, region_rows
from vmaforensics.volatility.session import grid, read
from vmaforensics.volatility.stacking import PhysicalLayerRequirement

if TYPE_CHECKING:
    from collections.abc import Iterator


class VmaXView(interfaces.plugins.PluginInterface):
    """Lists the memory regions of processes, and which kernel records (list, trees) know each of them.

    Needs no symbol file: symbols and types come out of the image. N/A: the kernel has no such record; -: it
    could not be read. A region that one record has and another lacks, or whose own vm_area_struct does not
    agree, is worth a look.
    """

    _required_framework_version = (2, 26, 0)
    _version = (1, 0, 0)

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        # A layer and no module: a module would ask for a symbol file.
        return [
            PhysicalLayerRequirement(name="primary", description="Memory layer to read"),
            requirements.ListRequirement(
                name="pid",
                element_type=int,
                description="Process ids to include (all others are left out)",
                optional=True,
            ),
        ]

    def run(self) -> interfaces.renderers.TreeGrid:
        return renderers.TreeGrid(COLUMNS, grid(self._rows()))

    def _rows(self) -> Iterator[Row]:
        session = read(self.context, self.config["primary"], self._progress_callback)
        yield from region_rows(session.views, self.config.get("pid") or ())
