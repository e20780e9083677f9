# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""volatility3 plugin: the page-table entries of processes, with page, owner and VMA."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volatility3.framework import interfaces, renderers
from volatility3.framework.configuration import requirements

from vmaforensics.volatility.rows.pages import COLUMNS, page_rows
from vmaforensics.volatility.rows.session import address_requirement, grid, layer_requirement, pid_requirement, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.volatility.rows.regions import Row


class VmaPages(interfaces.plugins.PluginInterface):  # type: ignore[misc]  # volatility3 is untyped
    """Lists the page-table entries of processes, with the page, its owner and the VMA that covers them.

    Needs no symbol file. A row is a run of neighbouring entries that are equal except for their frames. Allows: r the
    user may read (k: the kernel only), w write, x execute, over all levels. Disagrees: how the entry and the VMA
    above it differ. Level 1 is 4 KiB, 2 is 2 MiB, 3 is 1 GiB.
    """

    _required_framework_version = (2, 26, 0)
    _version = (1, 0, 0)

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        return [
            layer_requirement(),
            pid_requirement(),
            address_requirement(
                "Only the VMAs that hold one of these virtual addresses, or entries without a VMA there"
            ),
            requirements.BooleanRequirement(
                name="each", description="One row per entry instead of per run", default=False, optional=True
            ),
        ]

    def run(self) -> interfaces.renderers.TreeGrid:
        return renderers.TreeGrid(COLUMNS, grid(self._rows()))

    def _rows(self) -> Iterator[Row]:
        from vmaforensics.views.gather import EXTRA

        session = read(self.context, self.config["primary"], self._progress_callback, EXTRA)
        option = self.config.get
        yield from page_rows(session, option("pid") or (), option("address") or (), each=bool(option("each")))
