# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""volatility3 plugin: every memory region of every process, and which of the kernel's records know it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volatility3.framework import interfaces, renderers

from vmaforensics.volatility.rows.regions import COLUMNS, WANTED, region_rows
from vmaforensics.volatility.rows.session import grid, layer_requirement, pid_requirement, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.volatility.rows.regions import Row


class VmaXView(interfaces.plugins.PluginInterface):  # type: ignore[misc]  # volatility3 is untyped
    """Lists the memory regions of processes, and which kernel records know each of them.

    Needs no symbol file: symbols and types come out of the image. N/A: the kernel has no such record, or this
    region need not be in it; -: it could not be read. A region that one record has and another lacks, or whose own
    vm_area_struct does not agree, is worth a look; linux.vmafindings.VmaFindings weighs them.
    """

    _required_framework_version = (2, 26, 0)
    _version = (2, 0, 0)

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        return [layer_requirement(), pid_requirement()]

    def run(self) -> interfaces.renderers.TreeGrid:
        return renderers.TreeGrid(COLUMNS, grid(self._rows()))

    def _rows(self) -> Iterator[Row]:
        session = read(self.context, self.config["primary"], self._progress_callback, WANTED)
        yield from region_rows(session.views, self.config.get("pid") or ())
