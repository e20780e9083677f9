"""The modules of the kernel as a table: those of its list, then those that only its other records have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.report.document.tables import columns_of_rows
from vmaforensics.views.road.loaded import Loaded
from vmaforensics.views.system.modules import STATES, read_modules
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.road.road import RoadView

MODULES: Final = np.dtype(
    [
        ("name", "O"),
        ("address", "u8"),  # of the struct module
        ("size", "i8"),  # bytes of code and data, as in /proc/modules; 0: not on the list
        ("state", "O"),  # live, coming, going, unformed
        ("taints", "i8"),  # TAINT_* bits
        ("listed", "?"),  # on the list; others are in the tree by address, in /sys/module, or lie in memory
    ]
)


def modules_table(kernel: Kernel, road: RoadView | None) -> NDArray[np.void]:
    """A row a module; without ``road`` those of the list alone."""
    modules = read_modules(kernel).modules
    others = Loaded.zeros(0) if road is None else road.loaded.modules
    others = others.take(~np.isin(others.module, modules.module) & others.credible())
    both = (modules, others)
    none = np.zeros(len(others), np.int64)
    states = [state for some in both for state in some.state.tolist()]
    names = [some.name_of(row) for some in both for row in range(len(some))]
    return columns_of_rows(
        MODULES,
        len(names),
        name=[printable(name) for name in names],
        address=np.concatenate([some.module for some in both]),
        size=np.concatenate([modules.size, none]),
        state=[STATES[state] if state < len(STATES) else "?" for state in states],
        taints=np.concatenate([modules.taints.view(np.int64), none]),
        listed=np.concatenate([np.ones(len(modules), np.bool_), others.listed]),
    )
