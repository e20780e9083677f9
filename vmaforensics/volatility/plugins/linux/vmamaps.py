# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""volatility3 plugin: the memory maps of processes as /proc/PID/maps shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volatility3.framework import interfaces, renderers
from volatility3.framework.configuration import requirements

from vmaforensics.volatility.rows.files import Output
from vmaforensics.volatility.rows.maps import COLUMNS, MOST_BYTES, map_rows
from vmaforensics.volatility.rows.session import address_requirement, grid, layer_requirement, pid_requirement, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.volatility.rows.regions import Row


class VmaMaps(interfaces.plugins.PluginInterface):  # type: ignore[misc]  # volatility3 is untyped
    """Lists the memory maps of processes as their own /proc/PID/maps shows them.

    Needs no symbol file. The columns are those of linux.proc.Maps; permissions, names, devices and the [vsyscall]
    line are the kernel's. In dumped files, pages that are not in the image are zeros; linux.vmaextract.VmaExtract
    writes down which.
    """

    _required_framework_version = (2, 26, 0)
    _version = (1, 0, 0)

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        return [
            layer_requirement(),
            pid_requirement(),
            address_requirement("Only regions that hold one of these virtual addresses"),
            requirements.BooleanRequirement(
                name="dump",
                description="Write the bytes of the listed regions into files",
                default=False,
                optional=True,
            ),
            requirements.IntRequirement(
                name="maxsize",
                description="Most bytes of a region that is dumped",
                default=MOST_BYTES,
                optional=True,
            ),
        ]

    def run(self) -> interfaces.renderers.TreeGrid:
        return renderers.TreeGrid(COLUMNS, grid(self._rows()))

    def _rows(self) -> Iterator[Row]:
        option = self.config.get
        dump = bool(option("dump"))
        wanted = ("page-tables",) if dump else ()
        session = read(self.context, self.config["primary"], self._progress_callback, wanted)
        output, most = Output(self.open) if dump else None, option("maxsize") or MOST_BYTES
        yield from map_rows(session, option("pid") or (), option("address") or (), output, most)
