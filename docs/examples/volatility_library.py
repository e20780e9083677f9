# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""volatility3 used as a library, on an image without a symbol file: our findings, and its own process list.

python docs/examples/volatility_library.py IMAGE
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import volatility3.plugins
from volatility3 import framework
from volatility3.framework import automagic, constants, contexts, plugins
from volatility3.framework.automagic import stacker

from vmaforensics.volatility import PLUGIN_DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Iterator


def load_plugins() -> dict[str, Any]:
    """Every plugin by name. Once per process: importing them is what makes our layers and symbols known."""
    framework.require_interface_version(2, 0, 0)
    volatility3.plugins.__path__ = [str(PLUGIN_DIRECTORY), *constants.PLUGINS_PATH]
    framework.import_files(volatility3.plugins, True)
    known: dict[str, Any] = framework.list_plugins()
    return known


def rows(plugin: Any, image: Path, **options: object) -> Iterator[tuple[int, dict[str, Any]]]:  # noqa: ANN401
    """(depth, row by column) of a plugin on an image. Raises ``UnsatisfiedException`` if it cannot run."""
    context = contexts.Context()
    chosen = automagic.choose_automagic(automagic.available(context), plugin)
    context.config["automagic.LayerStacker.single_location"] = image.resolve().as_uri()
    context.config["automagic.LayerStacker.stackers"] = stacker.choose_os_stackers(plugin)
    for name, value in options.items():
        context.config[f"plugins.{plugin.__name__}.{name}"] = value
    made = plugins.construct_plugin(context, chosen, plugin, "plugins", lambda *_: None, None)
    grid = made.run()
    found: list[tuple[int, dict[str, Any]]] = []
    names = [column.name for column in grid.columns]
    grid.populate(lambda node, _: found.append((node.path_depth - 1, dict(zip(names, node.values, strict=True)))), None)
    yield from found


def main(image: Path) -> None:
    """Findings of weight with their evidence, then the processes."""
    known = load_plugins()
    for depth, row in rows(known["linux.vmafindings.VmaFindings"], image, min_severity="high"):
        print("  " * depth + (f"{row['Rule']} in {row['Process']}: " if depth == 0 else "") + row["What"])
    for _, row in rows(known["linux.pslist.PsList"], image):
        print(row["PID"], row["COMM"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
