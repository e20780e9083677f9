# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""Linux with five levels of page tables (LA57), which volatility3 has no layer for."""

from __future__ import annotations

from typing import ClassVar

from volatility3.framework.layers import intel


class LinuxIntel32eLA57(intel.LinuxIntel32e):  # type: ignore[misc]  # volatility3 is untyped
    """The 57-bit address space of x86-64 (Intel SDM vol. 3, 5.5.1): one more table on top, the rest as with four
    levels, PROT_NONE entries included.

    Physical addresses have 46 bits as in its base class, which keeps the encryption bits of AMD SME (47, 51)
    out of them.
    """

    _maxvirtaddr = 57
    _structure: ClassVar[list[tuple[str, int, bool]]] = [
        ("page map layer 5", 9, False),
        *intel.LinuxIntel32e._structure,
    ]
