"""Areas and their anon_vmas: ``vma->anon_vma_chain``, the objects that link both, and the anon_vmas (mm/rmap.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.reverse_maps.mappings import Seen, plausible, write_held
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.vmas.vmas import Vmas

CHAINS = np.dtype(
    [
        ("vma", np.uint64),  # whose chain it is
        ("avc", np.uint64),  # anon_vma_chain
        ("anon_vma", np.uint64),  # where the object leads
        ("back", np.uint64),  # its own vma pointer
        ("slot", np.uint64),  # address of the list_head that led here
    ]
)

ANON_VMAS = np.dtype(
    [
        ("anon_vma", np.uint64),
        ("ok", np.bool_),
        ("root", np.uint64),  # anon_vma
        ("parent", np.uint64),
        ("active", np.int64),  # num_active_vmas; -1 where the kernel has none
        ("children", np.int64),  # num_children
        ("tree", np.uint64),  # rb_node at the root of its tree
        ("whole", np.bool_),  # every node of the tree was read
        ("held", np.bool_),  # somebody held the rwsem of its root for writing
    ]
)

_STEPS = 1 << 16


def walk_chains(kernel: Kernel, vmas: Vmas, seen: Seen, log: ProblemLog) -> tuple[NDArray[np.void], NDArray[np.uint64]]:
    """The chain of each of ``vmas``, one step of every list per round.

    Returns rows of dtype ``CHAINS``, and the VMAs whose chain could not be followed to its end. An
    anon_vma_chain is visited once; ``seen`` remembers those of earlier calls.
    """
    head_at = np.uint64(kernel.offset("vm_area_struct", "anon_vma_chain"))
    link = np.uint64(kernel.offset("anon_vma_chain", "same_vma"))
    owner = vmas["vma"][vmas["ok"]]
    mm = vmas["mm"][vmas["ok"]]
    here = owner + head_at
    after, ok = _next(kernel, here)
    cut = [owner[~ok]]
    parts: list[NDArray[np.void]] = [np.zeros(0, CHAINS)]
    fields = ("vma", "anon_vma", "same_vma.next")

    def lose(problem: Problem, which: NDArray[np.bool_]) -> None:
        log.add(View.ANON_RMAP, problem, mm[which], here[which], after[which])
        cut.append(owner[which])

    owner, mm, here, after = owner[ok], mm[ok], here[ok], after[ok]
    for _ in range(_STEPS):
        live = after != owner + head_at
        owner, mm, here, after = owner[live], mm[live], here[live], after[live]
        if not len(owner):
            break
        wild = ~kernel_pointer(after)
        crooked = ~wild & ((after & np.uint64(7)) != 0)
        lose(Problem.NON_CANONICAL, wild)
        lose(Problem.MISALIGNED, crooked)
        # Freshly cleared lists of a new area are empty or zero; a pointer met before is a cycle or a foreign one.
        fresh = seen.new(after[~wild & ~crooked])
        first = np.zeros(len(after), np.bool_)
        _, at = np.unique(after, return_index=True)
        first[at] = True
        row = np.minimum(np.searchsorted(fresh, after), max(len(fresh) - 1, 0))
        new = first & (fresh[row] == after) if len(fresh) else np.zeros(len(after), np.bool_)
        lose(Problem.CYCLE, ~wild & ~crooked & ~new)
        owner, mm, here, after = owner[new], mm[new], here[new], after[new]
        got, ok = kernel.gather("anon_vma_chain", after - link, fields)
        lose(Problem.UNREADABLE, ~ok)
        rows = np.zeros(int(ok.sum()), CHAINS)
        rows["vma"], rows["avc"], rows["slot"] = owner[ok], after[ok] - link, here[ok]
        rows["anon_vma"], rows["back"] = got["anon_vma"][ok], got["vma"][ok]
        parts.append(rows)
        owner, mm, here, after = owner[ok], mm[ok], after[ok], got["same_vma.next"][ok]
    lose(Problem.CUT_SHORT, np.ones(len(owner), np.bool_))
    return np.concatenate(parts), np.unique(np.concatenate(cut))


def _next(kernel: Kernel, heads: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    words, ok = kernel.words(heads, 1)
    return words[:, 0], ok


def read_anon_vmas(kernel: Kernel, addresses: NDArray[np.uint64], seen: Seen, log: ProblemLog) -> NDArray[np.void]:
    """Decode the anon_vmas at ``addresses`` and those they name as root or parent; dtype ``ANON_VMAS``.

    Those in ``seen`` are left out, and what was read is added to it. Addresses that cannot be one are skipped.
    """
    # Where a kernel has "degree" instead, nothing counts the areas alone.
    fields = ["root", "parent", "rb_root.rb_root.rb_node", "num_active_vmas?", "num_children?"]
    parts = [np.zeros(0, ANON_VMAS)]
    fresh = seen.new(addresses[plausible(addresses)])
    while len(fresh):
        got, ok = kernel.gather("anon_vma", fresh, fields)
        rows = np.zeros(len(fresh), ANON_VMAS)
        rows["anon_vma"], rows["ok"], rows["whole"] = fresh, ok, ok
        rows["root"], rows["parent"], rows["tree"] = got["root"], got["parent"], got["rb_root.rb_root.rb_node"]
        names = got.dtype.names or ()
        rows["active"] = got["num_active_vmas"] if "num_active_vmas" in names else -1
        rows["children"] = got["num_children"] if "num_children" in names else -1
        rows["held"] = write_held(kernel, "anon_vma", fresh, "rwsem")
        log.add(View.ANON_RMAP, Problem.UNREADABLE, 0, fresh[~ok])
        parts.append(rows)
        kin = np.concatenate([got["root"], got["parent"]])
        fresh = seen.new(kin[plausible(kin)])
    return np.concatenate(parts)
