# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""volatility3 plugin: kernel stacks, unwound by the kernel's own unwind data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volatility3.framework import interfaces, renderers
from volatility3.framework.configuration import requirements

from vmaforensics.volatility.rows.case import find_subject
from vmaforensics.volatility.rows.session import grid, layer_requirement, pid_requirement
from vmaforensics.volatility.rows.stacks import COLUMNS, stack_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.volatility.rows.regions import Row


class VmaStacks(interfaces.plugins.PluginInterface):  # type: ignore[misc]  # volatility3 is untyped
    """Lists the frames of kernel stacks: of every CPU, and of tasks in uninterruptible sleep.

    Needs no symbol file: functions are those of kallsyms, frames are found by the unwind data that the kernel carries
    (ORC). A frame that is not proven is not Sure. Why a stack could not be followed to its beginning is a row.
    """

    _required_framework_version = (2, 26, 0)
    _version = (1, 0, 0)

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        return [
            layer_requirement(),
            pid_requirement(),
            requirements.BooleanRequirement(
                name="all", description="The stack of every task", default=False, optional=True
            ),
        ]

    def run(self) -> interfaces.renderers.TreeGrid:
        return renderers.TreeGrid(COLUMNS, grid(self._rows()))

    def _rows(self) -> Iterator[Row]:
        from vmaforensics.crash.gather import gather_case_stacks
        from vmaforensics.errors import KernelNotFoundError

        subject = find_subject(self.context, self.config["primary"], self._progress_callback)
        self._progress_callback(40, "Unwinding stacks")
        stacks = gather_case_stacks(subject.image, subject.kernel)
        if stacks is None:
            raise KernelNotFoundError("the list of tasks, or structures that stacks need, are not known of this kernel")
        yield from stack_rows(stacks, self.config.get("pid") or (), everyone=bool(self.config.get("all")))
