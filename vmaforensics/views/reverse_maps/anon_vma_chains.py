"""VMAs and their anon_vmas: ``vma->anon_vma_chain``, the objects that link both, and the anon_vmas (mm/rmap.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import distinct, is_first, is_in, rows_of
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I64, U64, Bools
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.slab.homes import ANON_VMA, ANON_VMA_CHAIN, Homes
from vmaforensics.views.structures.address_set import AddressSet, object_pointer
from vmaforensics.views.structures.rwsem import write_held
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_STEPS = 1 << 16
_ROOT = "rb_root.rb_root.rb_node"


@table()
class AnonVmaChains(Table):
    """One row per ``anon_vma_chain``, in the order in which the chains of VMAs lead to it."""

    vma: U64  # whose chain it is in
    avc: U64  # address of the anon_vma_chain
    anon_vma: U64  # the anon_vma it links to
    back: U64  # its own vma pointer


@table(struct="anon_vma")
class AnonVmas(Table):
    """One row per anon_vma that chains, VMAs or other anon_vmas lead to, ascending once all are gathered."""

    anon_vma: U64  # its address
    ok: Bools
    root: U64 = member("root")  # anon_vma
    parent: U64 = member("parent")
    # Where a kernel has "degree" instead, nothing counts the VMAs alone.
    active: I64 = member("num_active_vmas?", fill=-1)  # VMAs whose anon_vma it is; -1 where nothing counts them
    tree: U64 = member(_ROOT)  # rb_node at the root of its tree
    leftmost: U64 = member("rb_root.rb_leftmost?")  # rb_node that its tree is said to begin with; 0 for none
    whole: Bools  # every node of the tree was read
    held: Bools  # somebody held its rwsem for writing; of the root's, the whole family is guarded


@table(struct="anon_vma_chain")
class _Links(Table):
    """What is read of an anon_vma_chain."""

    vma: U64 = member("vma")
    anon_vma: U64 = member("anon_vma")
    next: U64 = member("same_vma.next")


@table()
class _Places(Table):
    """How far each list has been followed."""

    owner: U64  # the VMA
    mm: U64
    here: U64  # the list_head that was read last
    after: U64  # where it leads


class Chains(NamedTuple):
    """What :func:`walk_chains` found."""

    links: AnonVmaChains
    cut: U64  # VMAs whose chain could not be followed to its end, ascending


def walk_chains(kernel: Kernel, vmas: U64, mms: U64, seen: AddressSet, log: ProblemLog) -> Chains:
    """The chain of each of ``vmas``, addresses of readable vm_area_structs; one step of every list per round.

    ``mms`` are their address spaces, for the log. An anon_vma_chain is visited once; ``seen`` remembers those
    of earlier calls.
    """
    head_at = np.uint64(kernel.offset("vm_area_struct", "anon_vma_chain"))
    link_at = np.uint64(kernel.offset("anon_vma_chain", "same_vma"))
    words, ok = kernel.words(vmas + head_at, 1)
    cut = [vmas[~ok]]
    found: list[AnonVmaChains] = []
    at = _Places(owner=vmas, mm=mms, here=vmas + head_at, after=words[:, 0]).take(ok)

    def lose(problem: Problem, which: Bools) -> None:
        lost = at.take(which)
        log.add(View.ANON_RMAP, problem, lost.mm, lost.here, lost.after)
        cut.append(lost.owner)

    for _ in range(_STEPS):
        at = at.take(at.after != at.owner + head_at)
        if not len(at):
            break
        wild = ~kernel.arch.kernel_pointer(at.after)
        misaligned = ~wild & ((at.after & np.uint64(7)) != 0)
        lose(Problem.NON_CANONICAL, wild)
        lose(Problem.MISALIGNED, misaligned)
        # Freshly cleared lists of a new VMA are empty or zero; a pointer met before is a cycle or a foreign one.
        fresh = seen.add(at.after[~wild & ~misaligned])
        new = is_first(at.after) & (rows_of(fresh, at.after) >= 0)
        lose(Problem.CYCLE, ~wild & ~misaligned & ~new)
        at = at.take(new)
        stale = kernel.shared(Homes).strangers(ANON_VMA_CHAIN, at.after - link_at)
        lose(Problem.STALE, stale)
        at = at.take(~stale)
        links, ok = kernel.gather(_Links, at.after - link_at)
        lose(Problem.UNREADABLE, ~ok)
        at, links = at.take(ok), links.take(ok)
        found.append(AnonVmaChains(vma=at.owner, avc=at.after - link_at, anon_vma=links.anon_vma, back=links.vma))
        at = at.replace(here=at.after, after=links.next)
    lose(Problem.CUT_SHORT, np.ones(len(at), np.bool_))
    return Chains(links=AnonVmaChains.concatenate(found), cut=distinct(np.concatenate(cut)))


def read_anon_vmas(kernel: Kernel, addresses: U64, seen: AddressSet, log: ProblemLog) -> AnonVmas:
    """The anon_vmas at ``addresses`` and those they name as root or parent.

    Those in ``seen`` are left out, and what was read is added to it. Addresses that cannot be one are skipped; where
    the allocator says that none lives, nothing is read. A child has the root of its parent (anon_vma_fork, mm/rmap.c):
    what was led to and has another leads no further.
    """
    found: list[AnonVmas] = []
    fresh = seen.add(addresses[object_pointer(kernel.arch, addresses)])
    roots: U64 | None = None  # of those that led to what is fresh
    while len(fresh):
        stale = kernel.shared(Homes).strangers(ANON_VMA, fresh)
        rows, ok = kernel.gather(AnonVmas, fresh)
        log.add(View.ANON_RMAP, Problem.UNREADABLE, 0, fresh[~ok & ~stale])
        log.add(View.ANON_RMAP, Problem.STALE, 0, fresh[stale], fresh[stale])
        ok &= ~stale
        rows = rows.take_or_fill(np.where(ok, np.arange(len(rows)), -1))
        rows.anon_vma[:] = fresh
        rows.ok[:] = rows.whole[:] = ok
        rows.held[:] = ok & write_held(kernel, "anon_vma", fresh, "rwsem")
        found.append(rows)
        family = rows if roots is None else rows.take(is_in(rows.root, roots))
        roots = distinct(family.root[object_pointer(kernel.arch, family.root)])
        fresh = seen.add(np.concatenate([roots, family.parent[object_pointer(kernel.arch, family.parent)]]))
    return AnonVmas.concatenate(found)


def root_slots(kernel: Kernel, anon_vmas: U64) -> U64:
    """Where each anon_vma keeps the root of its tree."""
    slots: U64 = anon_vmas + np.uint64(kernel.offset("anon_vma", _ROOT))
    return slots
