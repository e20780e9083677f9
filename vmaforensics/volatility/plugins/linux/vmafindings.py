# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""volatility3 plugin: where the records of processes' memory maps disagree, and what that means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volatility3.framework import interfaces, renderers

from vmaforensics.volatility.rows.findings import COLUMNS, finding_rows, severity_requirement
from vmaforensics.volatility.rows.session import layer_requirement, pid_requirement, read, tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.volatility.rows.regions import Row


class VmaFindings(interfaces.plugins.PluginInterface):  # type: ignore[misc]  # volatility3 is untyped
    """Lists where the records of memory maps disagree, with the evidence under each finding.

    Needs no symbol file. The ID of a finding is that of `vmaforensics report`, and what linux.vmaextract.VmaExtract
    takes; `vmaforensics explain RULE` tells what a rule compares. What could not be assessed is in the log.
    """

    _required_framework_version = (2, 26, 0)
    _version = (1, 0, 0)

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        return [layer_requirement(), pid_requirement(), severity_requirement()]

    def run(self) -> interfaces.renderers.TreeGrid:
        return renderers.TreeGrid(COLUMNS, tree(self._rows()))

    def _rows(self) -> Iterator[tuple[int, Row]]:
        from vmaforensics.checks.context import Context
        from vmaforensics.checks.weigh import run_checks
        from vmaforensics.views.gather import EXTRA

        session = read(self.context, self.config["primary"], self._progress_callback, EXTRA)
        findings = run_checks(Context(session.views))
        yield from finding_rows(findings, self.config.get("pid") or (), self.config.get("min_severity") or "info")
