"""A node of an index as reports draw it."""

from __future__ import annotations

import msgspec


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node of an index, or a link of a list, near a finding."""

    address: str
    parent: str | None  # the node above (of a list: the one before); null: the root
    kind: str  # "maple_arange_64", "maple_leaf_64", "rb_node", "vm_area_struct", …
    start: str
    end: str
    entries: int  # slots in use
    wrong: str  # what is wrong with it; empty: nothing
