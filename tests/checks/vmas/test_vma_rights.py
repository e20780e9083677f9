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
