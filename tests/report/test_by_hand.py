"""Which addresses of a finding are looked at by hand."""

from __future__ import annotations

import pytest
from checks.handmade_views import Process, add_problem, findings, mm_of, views_of

from vmaforensics.report.document.by_hand import _place
from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View


@pytest.mark.parametrize(
    ("where", "kernel", "physical"),
    [
        (0xFFFF_8880_0000_1000, 0xFFFF_8880_0000_1000, None),
        (0x1000, None, 0x1000),
        (0x8000_0000_0000_0025, None, 0x8000_0000_0000_0025),  # a damaged pointer: no address of the kernel
    ],
)
def test_a_word_of_the_kernel_is_looked_at_only_where_it_can_be_one(
    where: int, kernel: int | None, physical: int | None
) -> None:
    views = views_of(Process(vmas=("400000-402000 r-xp /bin/cat",)))
    add_problem(views, View.MAPLE, Problem.NON_CANONICAL, mm_of(100), where, where)
    (found,) = findings(views, "VMA-LINK")
    assert _place(views.arch, found, lambda _: True, kernel=True) == kernel
    assert _place(views.arch, found, lambda _: True, kernel=False) == physical
