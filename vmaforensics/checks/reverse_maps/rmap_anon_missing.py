"""RMAP-ANON-MISSING: area is not linked to the reverse map of its anonymous pages.

*Compared:* the `anon_vma_chain` of each area: a link to its own `anon_vma`, every link in the tree of its anon_vma,
every link naming this area, and no link of this area in a tree that its chain lacks.

*Guaranteed by:* `anon_vma_chain_link` (mm/rmap.c).
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import INDICES, Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="RMAP-ANON-MISSING",
    title="area is not linked to the reverse map of its anonymous pages",
    severity=Severity.HIGH,
    why="An area with anonymous pages is chained to its anon_vma and hangs in its tree. An area that is not there "
    "escapes whoever looks for the users of a page; an anon_vma pointer that was changed makes it look like "
    "another.",
    compares="the anon_vma_chain of each area with its anon_vma, and every link of it with the tree it should be in",
    views=(View.ANON_RMAP, *INDICES),
    transient="merges and splits take an area out of the reverse map for a while, under the write lock",
    by_hand=("crash: list anon_vma_chain.same_vma -H <&vma->anon_vma_chain> -s anon_vma_chain.vma,anon_vma", hand.ANON),
    steps=("area", "anon"),
    part=Part.CAUSE,
    rank=120,
)
