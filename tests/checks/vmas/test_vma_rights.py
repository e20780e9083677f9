"""VMA-RIGHTS on VMAs made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from checks.handmade_views import Process, findings, mm_of, views_of, vma_row
from vmaforensics.views.vmas import flags

MAY = flags.VM_MAYREAD | flags.VM_MAYWRITE | flags.VM_MAYEXEC
CODE = 0x400000


def test_rights_that_a_vma_may_have_are_none() -> None:
    views = views_of(Process(pid=100))
    assert findings(views, "VMA-RIGHTS") == []
    views.vmas.flags[:] |= np.uint64(MAY)
    assert findings(views, "VMA-RIGHTS") == []


@pytest.mark.parametrize(("gained", "name"), [(flags.VM_WRITE, "VM_WRITE"), (flags.VM_SHARED, "VM_SHARED")])
def test_a_right_that_it_may_not_have_is_found(gained: int, name: str) -> None:
    views = views_of(Process(pid=100))
    views.vmas.flags[:] |= np.uint64(MAY)
    row = vma_row(views, CODE)
    views.vmas.flags[row] &= ~np.uint64(flags.VM_MAYWRITE)
    assert findings(views, "VMA-RIGHTS") == []
    views.vmas.flags[row] |= np.uint64(gained)
    (found,) = findings(views, "VMA-RIGHTS")
    assert (found.mm, found.start, found.end) == (mm_of(100), CODE, CODE + 0x2000)
    assert f"has {name}, which it may not have" in found.title


@pytest.mark.parametrize(
    ("flags_of", "file", "private"),
    [
        (MAY | flags.VM_MAYSHARE, 0xFFFF_8880_0000_1000, True),
        (MAY & ~flags.VM_MAYWRITE | flags.VM_MAYSHARE, 0, True),
        (MAY & ~flags.VM_MAYWRITE | flags.VM_MAYSHARE, 0xFFFF_8880_0000_1000, False),  # a file that is open for reading
        (MAY | flags.VM_MAYSHARE | flags.VM_SHARED, 0xFFFF_8880_0000_1000, False),
    ],
)
def test_private_memory_that_maps_shows_as_shared(flags_of: int, file: int, private: bool) -> None:
    """do_mmap (mm/mmap.c): of a file that may not be written to, VM_MAYWRITE and VM_SHARED are taken away together."""
    views = views_of(Process(pid=100))
    row = vma_row(views, CODE)
    views.vmas.flags[row], views.vmas.file[row] = flags.VM_READ | flags_of, file
    found = findings(views, "VMA-RIGHTS")
    assert [finding.title.endswith("has VM_MAYSHARE, and is private") for finding in found] == [True] * private
