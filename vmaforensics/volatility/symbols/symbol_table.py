# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""The symbol table of an ISF that was made from an image."""

from __future__ import annotations

from typing import Any

# LinuxKernelIntermedSymbols reaches into this module and does not import it.
import volatility3.framework.symbols.linux.extensions.network  # noqa: F401
from volatility3.framework.symbols.linux import LinuxKernelIntermedSymbols


class ImageSymbolTable(LinuxKernelIntermedSymbols):  # type: ignore[misc]  # volatility3 is untyped
    """volatility3's table without the check against its JSON schema: what we wrote ourselves conforms (tests hold it
    to that), and the check takes a second on every run, and the better part of a minute on the first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs | {"validate": False})
