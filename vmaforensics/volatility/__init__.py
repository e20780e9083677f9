# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""The adapter between volatility3 and the engine.

Under the Volatility Software License 1.0, like the plugins in it: see LICENSE here.
"""

from __future__ import annotations

from pathlib import Path

PLUGIN_DIRECTORY = Path(__file__).parent / "plugins"  # for vol -p; `vmaforensics plugin-dir` prints it
