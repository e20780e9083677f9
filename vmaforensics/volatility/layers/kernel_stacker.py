# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""The kernel's address space for volatility3's own plugins, found by the engine instead of by a symbol file."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from volatility3.framework import interfaces
from volatility3.framework.layers import intel

from vmaforensics.errors import VmaForensicsError
from vmaforensics.volatility.layers.adapter import subject_of_layer
from vmaforensics.volatility.layers.intel_layer import LinuxIntel32eLA57
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from volatility3.framework.interfaces.context import ContextInterface

    from vmaforensics.kernel.kernel import Kernel

log = logging.getLogger(__name__)

BANNER = "kernel_banner"  # volatility3's LinuxSymbolFinder.banner_config_key
_LONGEST_BANNER = 512


class LinuxKernelStacker(interfaces.automagic.StackerLayerInterface):  # type: ignore[misc]  # volatility3 is untyped
    """Asked before volatility3's own (34 and 35), which need a symbol file to recognise a kernel at all, read
    PROT_NONE pages wrongly where there is a VMCOREINFO, and know four levels of page tables only."""

    stack_order = 33
    exclusion_list = ("mac", "windows")

    @classmethod
    def stack(
        cls,
        context: ContextInterface,
        layer_name: str,
        progress_callback: Callable[[float, str], None] | None = None,
    ) -> interfaces.layers.DataLayerInterface | None:
        """The address space of the kernel in ``layer_name``, if the engine finds one there."""
        if context.layers[layer_name].metadata.get("mapped", False):
            return None
        if progress_callback is not None:
            progress_callback(0, "Looking for a Linux kernel")
        try:
            kernel = subject_of_layer(context, layer_name).kernel
        except VmaForensicsError as error:
            log.info("%s", printable(str(error)))  # the diagnosis says it louder if nobody else finds one
            return None
        if kernel.root is None or kernel.identity.kaslr_offset is None:
            log.info("%s", "; ".join(map(printable, kernel.identity.problems)))
            return None
        layer_class = LinuxIntel32eLA57 if kernel.identity.levels == 5 else intel.LinuxIntel32e
        name = context.layers.free_layer_name("IntelLayer")
        config_path = interfaces.configuration.path_join("vmaforensics", name)
        settings: dict[str, Any] = {
            "memory_layer": layer_name,
            "page_map_offset": kernel.root,
            "kernel_virtual_offset": kernel.identity.kaslr_offset,
            BANNER: raw_banner(kernel).decode("latin-1"),
        }
        for key, value in settings.items():
            context.config[interfaces.configuration.path_join(config_path, key)] = value
        return layer_class(context, config_path=config_path, name=name, metadata={"os": "Linux"})


def raw_banner(kernel: Kernel) -> bytes:
    """``linux_banner`` byte for byte, up to and with its NUL: what symbol files are found by. Empty if it cannot
    be read."""
    at = kernel.symbols.get("linux_banner")
    if at is None:
        return b""
    text = kernel.strings(np.array([at], np.uint64), _LONGEST_BANNER)[0]
    return b"" if text is None else text + b"\0"
