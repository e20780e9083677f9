"""How an object is to be read whose words may mean several things: members of a union that it does not use."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.views.objects.nodes import find_nodes

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64
    from vmaforensics.views.objects.surroundings import Surroundings


class Form(NamedTuple):
    """How the words of one object are to be read."""

    struct: str  # that members are looked up in
    unused: frozenset[str] = frozenset()  # members that share their place with those in use


def forms(surroundings: Surroundings, struct: str, starts: U64) -> list[Form]:
    """The form of each object of ``struct`` that begins at ``starts``."""
    if struct == "maple_node":
        nodes = find_nodes(surroundings, starts)
        return [
            Form(("maple_range_64" if leaf else "maple_arange_64") if met else struct)
            for met, leaf in zip(nodes.met.tolist(), nodes.leaf.tolist(), strict=True)
        ]
    kernel = surroundings.kernel
    if struct == "vm_area_struct" and all(kernel.has(struct, name) for name in ("anon_name", "shared", "vm_file")):
        # While anon_name shared its place with the node in i_mmap (5.17 to 6.1), VMAs of files had no name
        # (anon_vma_name, include/linux/mm_inline.h). Elsewhere each has a place of its own, and it does not matter.
        files, ok = kernel.gather_member(struct, "vm_file", starts)
        in_file, anonymous = Form(struct, frozenset({"anon_name"})), Form(struct, frozenset({"shared"}))
        overlaid = kernel.offset(struct, "anon_name") == kernel.offset(struct, "shared")
        return [
            Form(struct) if not (known and overlaid) else in_file if file else anonymous
            for file, known in zip(files.tolist(), ok.tolist(), strict=True)
        ]
    return [Form(struct)] * len(starts)


def form_of(surroundings: Surroundings, struct: str, start: int) -> Form:
    """The form of one object."""
    return forms(surroundings, struct, np.array([start], np.uint64))[0]
