"""The pages of the vDSO's data that processes have, on images of real kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import WHOLE, Edit, needs_symbol

from vmaforensics.arch.page_tables import PteState
from vmaforensics.arch.x86_64 import bits

if TYPE_CHECKING:
    from support import Sample

pytestmark = pytest.mark.image


@pytest.mark.parametrize(("place", "foreign"), [(1, False), (2, True)])
def test_what_mlockall_maps_of_the_kernels_data_is_its_own_where_it_belongs(
    whole_kernel: Sample, place: int, *, foreign: bool
) -> None:
    """All pages are allocated together (vdso_setup_data_pages, lib/vdso/datastore.c), those that nobody reads too."""
    if whole_kernel not in WHOLE:
        pytest.skip("an excerpt does not hold the time namespaces, which would have pages of their own")
    if whole_kernel.analysis.kernel.symbols.get("vdso_data_pages") is None:
        pytest.skip("the pages are variables of this kernel")
    needs_symbol(whole_kernel, "vdso_data_pages")
    edit = Edit(whole_kernel.analysis)
    view = edit.views.page_tables
    assert view is not None
    vvar = np.array([edit.views.names[row] == b"[vvar]" for row in range(len(edit.views.vmas))])
    areas = np.flatnonzero(vvar[view.ranges.vma_row])
    first = np.flatnonzero(np.isin(view.ptes.range_row, areas) & (view.ptes.state == PteState.PRESENT))[0]
    start = int(edit.views.vmas.start[view.ranges.vma_row[view.ptes.range_row[first]]])
    va, where, entry = (int(column[first]) for column in (view.ptes.va, view.ptes.where, view.ptes.entry))
    data = int(view.ptes.pfn[first]) - ((va - start) >> 12)  # of the first page of all
    value = entry & ~bits.ADDRESS_MASK | (data + 1) << 12
    edit.overlay.write(where + 8 * (place - ((va - start) >> 12)), value.to_bytes(8, "little"))
    vdso = edit.again().views.vdso
    assert vdso is not None
    assert (start + (place << 12) in vdso.pages.va.tolist()) is foreign
