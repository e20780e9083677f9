# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""volatility3 plugin: whether and how the kernel crashed, what it complained of, and who waits for whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volatility3.framework import interfaces, renderers

from vmaforensics.volatility.rows.case import COLUMNS, crash_rows, find_subject
from vmaforensics.volatility.rows.session import layer_requirement, tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.volatility.rows.regions import Row


class VmaCrash(interfaces.plugins.PluginInterface):  # type: ignore[misc]  # volatility3 is untyped
    """Says whether and how the kernel crashed, what it complained of in its log, and who waits for whom.

    Needs no symbol file. Only what the kernel itself wrote into its log is believed: what a program wrote through
    /dev/kmsg is not. Deadlocks are circles of locks whose owners and waiters are proven. `vmaforensics crash` shows
    the same and more; linux.vmastacks.VmaStacks has the stacks.
    """

    _required_framework_version = (2, 26, 0)
    _version = (1, 0, 0)

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        return [layer_requirement()]

    def run(self) -> interfaces.renderers.TreeGrid:
        return renderers.TreeGrid(COLUMNS, tree(self._rows()))

    def _rows(self) -> Iterator[tuple[int, Row]]:
        from vmaforensics.crash.build import build_crash_document
        from vmaforensics.crash.gather import follow_complaints, gather_case
        from vmaforensics.progress import unheard

        subject = find_subject(self.context, self.config["primary"], self._progress_callback)
        self._progress_callback(40, "Reading log, stacks and locks")
        case = follow_complaints(gather_case(subject.image, subject.kernel, unheard), unheard)
        yield from crash_rows(build_crash_document(case, lines=0))
