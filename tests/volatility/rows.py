"""Rows of volatility3's own plugins on an image, with one symbol file, as JSON on stdout.

    python rows.py IMAGE SYMBOL_FILE PLUGIN...

Each plugin gives ``{"rows": [[depth, value, ...], ...], "error": null or the exception that ended it}``. The
layers are put together here, without volatility3's search for a kernel, so that the symbol file is all that can
differ between two runs; and it is not validated, which takes a minute where jsonschema is installed.
"""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import volatility3.plugins
import volatility3.symbols
from volatility3 import framework
from volatility3.framework import constants, contexts, exceptions, interfaces
from volatility3.framework.layers import intel
from volatility3.framework.symbols import linux

from vmaforensics.image.open import open_image
from vmaforensics.kernel.find import find_kernel

if TYPE_CHECKING:
    from volatility3.framework.interfaces.context import ContextInterface as Context

    from vmaforensics.image.memory import PhysicalMemory

_ADDRESSES = (1 << 48) - 1


class MemoryLayer(interfaces.layers.DataLayerInterface):  # type: ignore[misc]
    """The physical memory of an image, of any format the engine reads."""

    def __init__(self, context: Context, config_path: str, name: str, memory: PhysicalMemory) -> None:
        super().__init__(context=context, config_path=config_path, name=name)
        self.memory = memory
        self._pages: dict[int, bytes | None] = {}

    @property
    def maximum_address(self) -> int:
        return int(self.memory.ranges[-1, 1]) - 1

    @property
    def minimum_address(self) -> int:
        return 0

    def is_valid(self, offset: int, length: int = 1) -> bool:
        return all(self._page(low) is not None for low in range(offset - offset % 4096, offset + length, 4096))

    def read(self, offset: int, length: int, pad: bool = False) -> bytes:
        parts = []
        for low in range(offset - offset % 4096, offset + length, 4096):
            page = self._page(low)
            if page is None and not pad:
                raise exceptions.InvalidAddressException(self.name, max(low, offset), "not in the image")
            parts.append((page or bytes(4096))[max(offset - low, 0) : offset + length - low])
        return b"".join(parts)

    def _page(self, at: int) -> bytes | None:
        if at not in self._pages:
            data, ok = self.memory.gather(np.array([at], np.uint64), 4096)
            self._pages[at] = bytes(data[0]) if ok[0] else None
        return self._pages[at]

    def write(self, offset: int, data: bytes) -> None:
        raise NotImplementedError


def _value(value: object) -> object:
    if isinstance(value, interfaces.renderers.BaseAbsentValue):
        return type(value).__name__
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, bool):
        return bool(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float | bytes):
        return value.hex()
    return str(value)


def _kernel(context: Context, image: Path, symbols: Path) -> str:
    """Layers and symbols in ``context``; returns the name of the module."""
    found = find_kernel(open_image(image))
    context.add_layer(MemoryLayer(context, "layers.memory", "memory", found.memory))
    context.config["layers.space.memory_layer"] = "memory"
    context.config["layers.space.page_map_offset"] = found.root
    context.config["layers.space.kernel_virtual_offset"] = found.identity.kaslr_offset
    context.add_layer(intel.LinuxIntel32e(context, "layers.space", "space", metadata={"os": "Linux"}))
    url, name = symbols.resolve().as_uri(), "kernel"  # some parts of volatility3 expect a module of that name
    table = linux.LinuxKernelIntermedSymbols(
        context, "symbols.kernel", name, url, validate=False, symbol_mask=_ADDRESSES
    )
    context.symbol_space.append(table)
    context.module(name, "space", found.identity.kaslr_offset)
    return name


def rows(image: Path, symbols: Path, names: list[str]) -> dict[str, Any]:
    """Rows and error by plugin."""
    constants.OFFLINE = True
    volatility3.plugins.__path__ = [*constants.PLUGINS_PATH]
    framework.import_files(volatility3.plugins, True)  # imports what LinuxKernelIntermedSymbols forgets, too
    known = framework.list_plugins()
    context = contexts.Context()
    module = _kernel(context, image, symbols)
    found = {}
    for name in names:
        path = f"plugins.{known[name].__name__}"
        context.config[f"{path}.kernel"] = module
        got: list[Any] = []
        error = None
        try:
            grid = known[name](context, path).run()
            grid.populate(lambda node, into: into.append([node.path_depth, *map(_value, node.values)]) or into, got)
        except Exception as problem:
            error = f"{type(problem).__name__}: {problem}"
        found[name] = {"rows": got, "error": error}
    return found


if __name__ == "__main__":
    json.dump(rows(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]), sys.stdout)
