# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""Symbols for volatility3's own plugins, made from the image where the user has no symbol file for it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from volatility3.framework import interfaces
from volatility3.framework.configuration.requirements import SymbolTableRequirement, TranslationLayerRequirement
from volatility3.framework.layers import intel

from vmaforensics.errors import VmaForensicsError
from vmaforensics.volatility.layers.adapter import subject_of_layer
from vmaforensics.volatility.layers.kernel_stacker import BANNER
from vmaforensics.volatility.symbols.known_symbols import known_symbol_files
from vmaforensics.volatility.symbols.symbol_table import ImageSymbolTable
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from volatility3.framework.interfaces.configuration import RequirementInterface
    from volatility3.framework.interfaces.context import ContextInterface
    from volatility3.framework.interfaces.layers import DataLayerInterface

log = logging.getLogger(__name__)

_TABLE = f"{ImageSymbolTable.__module__}.{ImageSymbolTable.__qualname__}"


class ImageSymbols(interfaces.automagic.AutomagicInterface):  # type: ignore[misc]  # volatility3 is untyped
    """Runs before volatility3's symbol finders (priority 40), which look for the kernel's banner among the
    symbol files they know. A file of the user's for this very kernel is left to them: it may know more."""

    priority = 35
    exclusion_list = ("mac", "windows")

    def __call__(
        self,
        context: ContextInterface,
        config_path: str,
        requirement: RequirementInterface,
        progress_callback: Callable[[float, str], None] | None = None,
    ) -> None:
        join, parent = interfaces.configuration.path_join, interfaces.configuration.parent_path
        wanted = (TranslationLayerRequirement, SymbolTableRequirement)
        found = self.find_requirements(context, config_path, requirement, wanted, shortcut=False)
        for path, table in found:
            if not isinstance(table, SymbolTableRequirement) or not table.unsatisfied(context, parent(path)):
                continue
            for layer in _sisters(context, found, parent(path)):
                url = _symbol_file(context, layer, progress_callback)
                if url is None:
                    continue
                # As SymbolFinder does it, so that the configuration can be saved.
                context.config[join(path, "class")] = _TABLE
                context.config[join(path, "isf_url")] = url
                context.config[join(path, "symbol_mask")] = layer.address_mask
                table.construct(context, parent(path))
                break


def _sisters(
    context: ContextInterface, found: list[tuple[str, RequirementInterface]], parent_path: str
) -> Iterator[DataLayerInterface]:
    """The layers that belong to the same kernel as a symbol table."""
    for path, requirement in found:
        if (
            isinstance(requirement, TranslationLayerRequirement)
            and interfaces.configuration.parent_path(path) == parent_path
        ):
            name = context.config.get(path, None)
            if isinstance(name, str) and name in context.layers:
                yield context.layers[name]


def _symbol_file(
    context: ContextInterface, layer: DataLayerInterface, progress: Callable[[float, str], None] | None
) -> str | None:
    """URL of a symbol file made from the image under a kernel's address space; None if it cannot be made."""
    if not isinstance(layer, intel.Intel):
        return None
    banner = layer.config.get(BANNER, None) or ""
    if banner.encode("latin-1", "replace") in known_symbol_files():
        return None
    from vmaforensics.export.isf.cache import cached_isf

    if progress is not None:
        progress(0, "Making a symbol file of the image's own type information")
    try:
        return cached_isf(subject_of_layer(context, layer.name).kernel).as_uri()
    except VmaForensicsError as error:
        log.info("%s", printable(str(error)))
        return None
