# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""One line for an image volatility3 cannot use: what was recognised in it, what is missing, and what to do."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from volatility3.framework import constants, interfaces

from vmaforensics.errors import VmaForensicsError
from vmaforensics.volatility.layers.kernel_stacker import raw_banner
from vmaforensics.volatility.layers.location import local_path
from vmaforensics.volatility.layers.opened import opened
from vmaforensics.volatility.symbols.known_symbols import banners, known_symbol_files
from vmaforensics.words.amounts import counted
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from volatility3.framework.interfaces.configuration import RequirementInterface
    from volatility3.framework.interfaces.context import ContextInterface

    from vmaforensics.image.image import Image
    from vmaforensics.kernel.kernel import Kernel

log = logging.getLogger(__name__)

_LOCATION = interfaces.configuration.path_join(constants.AUTOMAGIC_CONFIG_PATH, "LayerStacker", "single_location")


class Diagnosis(interfaces.automagic.AutomagicInterface):  # type: ignore[misc]  # volatility3 is untyped
    """Runs last. Where a plugin still lacks something, volatility3 names the requirement and no cause."""

    priority = 1000
    exclusion_list = ("mac", "windows")

    def __call__(
        self,
        context: ContextInterface,
        config_path: str,
        requirement: RequirementInterface,
        progress_callback: Callable[[float, str], None] | None = None,
    ) -> None:
        location = context.config.get(_LOCATION, None)
        if location and requirement.unsatisfied(context, config_path):
            log.warning("%s", diagnose(str(location)))


def diagnose(location: str) -> str:
    """What can be said of the image at a URL, in one line."""
    path = local_path(location)
    if path is None:
        return printable(f"vmaforensics: {location} is not a local file; copy it here and give its path")
    try:
        subject = opened(path)
    except VmaForensicsError as error:
        return printable(f"vmaforensics: {error}")
    head = f"vmaforensics: {path} was read as {_named(subject.image.format)}"
    try:
        kernel = subject.kernel
    except VmaForensicsError as error:
        return printable(f"{head}; {_banner(subject.image)}; {error}{_files()}")
    identity = kernel.identity
    known = f"{head}; kernel banner '{identity.banner}'; {identity.levels}-level paging, {identity.translation_source}"
    return printable(f"{known}; {_symbols(kernel)}")


def _named(format_: str) -> str:
    return "a raw image" if format_ == "raw" else f"{'an' if format_[:1] in 'aeiou' else 'a'} {format_} image"


def _banner(image: Image) -> str:
    found = next(banners(image), b"")
    return f"kernel banner '{found.decode('latin-1')}'" if found else "no kernel banner"


def _files() -> str:
    """How many symbol files volatility3 has, none of which was of use."""
    count = len(known_symbol_files())
    if not count:
        return "; volatility3 has no symbol file for Linux either"
    return f"; {counted(count, 'symbol file')} of volatility3's, none with this banner"


def _symbols(kernel: Kernel) -> str:
    """The last two parts of the line: symbols, and what to do."""
    if kernel.root is None:
        return (
            "symbols are in the image, but its page-table root (init_top_pgt) is not, without which volatility3 "
            "translates no address; run `vmaforensics report` on it, or acquire it again without filtering"
        )
    if kernel.identity.kaslr_offset is None:
        return (
            "symbols are in the image, but where the kernel was moved to (KERNELOFFSET) is not, without which "
            "volatility3 finds none of them; run `vmaforensics report` on it"
        )
    url = known_symbol_files().get(raw_banner(kernel))
    if url is not None:
        return f"symbols: {url} has this banner and could not be used; run again with -vvvv to see why, or remove it"
    from vmaforensics.export.isf.cache import cached_isf

    try:
        made = cached_isf(kernel)
    except VmaForensicsError as error:
        return f"no symbols: {error}"
    return f"symbols: {made} was made from the image; what this plugin asks for beyond them is not available"
