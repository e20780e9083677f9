"""ANCHOR-OUTSIDE: address that the kernel remembers of a process lies in no area.

*Compared:* `start_code` to `env_end`, `brk` and `vdso` of `mm_struct`, addresses of the auxiliary vector, and addresses
a thread handed to the kernel, with the areas of all indices.

*Guaranteed by:* they lie in areas when they are set up; programs may unmap them later.
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import INDICES, Confidence, Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="ANCHOR-OUTSIDE",
    title="address that the kernel remembers of a process lies in no area",
    severity=Severity.INFO,
    confidence=Confidence.LOW,
    why="The program's own parts and what its threads handed to the kernel lie in areas when they are set up. An "
    "area that has been hidden since leaves such addresses behind.",
    benign=("programs may unmap or move any of their parts", "prctl(PR_SET_MM) sets such addresses at will"),
    attack=("T1055",),
    compares="start_code to env_end, brk and vdso of mm_struct, the auxiliary vector, and addresses a thread handed to "
    "the kernel, with the areas of all indices",
    views=(View.ANCHORS, *INDICES),
    transient="exec",
    by_hand=("crash: struct mm_struct.start_code,end_code,start_brk,brk,start_stack,arg_start,env_end MM", hand.VM),
    steps=("word", "mm", "index"),
    part=Part.LEFT_BEHIND,
    rank=570,
)
