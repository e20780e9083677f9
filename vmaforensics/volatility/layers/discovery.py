# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""Everything volatility3 finds among the subclasses of its own classes. To import this is to install it: each of
our plugin files does, so that any plugin of volatility3 gains from their directory being on its path."""

from __future__ import annotations

from vmaforensics.volatility.layers.diagnosis import Diagnosis
from vmaforensics.volatility.layers.image_layer import ImageLayer
from vmaforensics.volatility.layers.image_stacker import ImageStacker
from vmaforensics.volatility.layers.intel_layer import LinuxIntel32eLA57
from vmaforensics.volatility.layers.kernel_stacker import LinuxKernelStacker
from vmaforensics.volatility.layers.stacking import PhysicalStacker
from vmaforensics.volatility.symbols.symbol_table import ImageSymbolTable
from vmaforensics.volatility.symbols.symbols import ImageSymbols

__all__ = [
    "Diagnosis",
    "ImageLayer",
    "ImageStacker",
    "ImageSymbolTable",
    "ImageSymbols",
    "LinuxIntel32eLA57",
    "LinuxKernelStacker",
    "PhysicalStacker",
]
