"""The reverse maps against the indexes of the memory map: who hangs in ``i_mmap`` and anon_vma trees, and who should.

Nothing is said to be missing from a tree that was not read whole, nor hidden from an index that was not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from vmaforensics.checks import rules
from vmaforensics.checks.finding import Confidence, Evidence, Severity
from vmaforensics.checks.reverse_maps.hidden import check_hidden
from vmaforensics.checks.reverse_maps.rmap_vmas import Areas
from vmaforensics.checks.reverse_maps.trees import check_trees
from vmaforensics.columns.lookup import rows_of
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding, Rule
    from vmaforensics.views.reverse_maps.reverse_maps import RmapView

_T = TypeVar("_T", bound=np.generic)


def check_rmap(context: Context) -> Iterator[Finding]:
    """RMAP-FILE-HIDDEN, -MISSING and -MISMATCH, RMAP-ANON-HIDDEN and -MISSING, RMAP-TREE."""
    rmap = context.views.rmap
    if rmap is None:
        return
    areas = Areas(context, rmap)
    yield from check_hidden(context, rmap, areas)
    yield from _trees(context, rmap, areas)
    if rmap.mappings["held"].any() or rmap.anon_vmas["held"].any():
        note = Evidence(what="the lock of the tree was write-held: it was being changed", view="lock", address=0)
        for one in _trees(context, rmap, areas, held=True):
            evidence = (*one.evidence, note)
            yield replace(one, severity=Severity.LOW, confidence=Confidence.LOW, evidence=evidence)


def _trees(context: Context, rmap: RmapView, areas: Areas, *, held: bool = False) -> Iterator[Finding]:
    """What is wrong with the trees whose lock was ``held``, or was not."""
    mappings = rmap.mappings.replace(whole=rmap.mappings.whole & (rmap.mappings.held == held))
    anon_vmas = rmap.anon_vmas.replace(whole=rmap.anon_vmas.whole & (rmap.anon_vmas.held == held))
    rmap = replace(rmap, mappings=mappings, anon_vmas=anon_vmas)
    trees: dict[int, int] = {}  # tree an area is missing from: the area's mm
    found = [*_files(context, rmap, areas, trees, held), *_chains(context, rmap, areas, trees, held)]
    traces: list[tuple[int, Evidence]] = []
    found += check_trees(context, rmap, areas, trees, traces)
    # What a cut leaves behind lies with whoever hangs next to it: tell it with the area that was cut out.
    extra: dict[int, list[Evidence]] = {}
    for tree, trace in traces:
        extra.setdefault(trees[tree], []).append(trace)
    for one in found:
        more = extra.pop(one.mm, []) if one.rule in (rules.RMAP_FILE_MISSING, rules.RMAP_ANON_MISSING) else []
        yield replace(one, evidence=(*one.evidence, *more[:16]))


def _files(context: Context, rmap: RmapView, areas: Areas, trees: dict[int, int], held: bool) -> Iterator[Finding]:
    """Each area with a file hangs in the ``i_mmap`` of that file's address_space, and nowhere else."""
    order = np.argsort(rmap.file_nodes["vma"], kind="stable")
    nodes = rmap.file_nodes[order]
    row = rows_of(nodes["vma"], rmap.vmas["vma"])
    where = np.where(row >= 0, nodes["tree"][row], np.uint64(0)) if len(nodes) else np.zeros(len(row), np.uint64)
    judged = rmap.vmas["ok"] & areas.live & areas.listed
    has_file = rmap.vmas["file"] != 0
    named = has_file & (rmap.mapping != 0)
    expected = rows_of(rmap.mappings["mapping"], rmap.mapping)
    whole = np.where(expected >= 0, rmap.mappings["whole"][expected], False) if len(rmap.mappings) else named & False

    missing = np.flatnonzero(judged & named & whole & (where == 0))
    for one in missing.tolist():
        trees.setdefault(int(rmap.mapping[one]), int(rmap.vmas["mm"][one]))

    def absent(at: int) -> Evidence:
        area = int(missing[at])
        return Evidence(
            what=f"the i_mmap tree of its file's address_space {int(rmap.mapping[area]):#x} does not hold "
            f"the {areas.text(area)}",
            view=View.FILE_RMAP.label,
            address=int(rmap.vmas["vma"][area]),
            expected=f"{int(rmap.mapping[area]):#x}",
        )

    yield from _tell(
        context, rules.RMAP_FILE_MISSING, rmap, areas, missing, absent, "has been taken out of its file's i_mmap"
    )

    now = np.isin(where, rmap.mappings["mapping"][rmap.mappings["held"] == held])
    foreign = np.flatnonzero(now & judged & (where != 0) & (where != rmap.mapping) & (named | ~has_file))

    def other(at: int) -> Evidence:
        area = int(foreign[at])
        held, own = int(where[area]), int(rmap.mapping[area])
        path = areas.file_of(held) or "?"
        shows = f"its vm_file has the address_space {own:#x}" if own else "it has no vm_file"
        return Evidence(
            what=f"the {areas.text(area)} hangs in the i_mmap tree of {held:#x} ({path}), and {shows}",
            view=View.FILE_RMAP.label,
            address=areas.word(area, "vm_file"),
            found=f"{own:#x}",
            expected=f"{held:#x}",
        )

    yield from context.per_mm(
        rules.RMAP_FILE_MISMATCH,
        rmap.vmas["mm"][foreign],
        other,
        lambda at: (
            f"{areas.text(int(foreign[at]))} maps {areas.file_of(int(where[foreign[at]])) or 'another file'}"
            f"{', not what vm_file says' if has_file[foreign[at]] else ', and its vm_file is empty'}"
        ),
        lambda at: areas.bounds(int(foreign[at])),
    )


def _chains(context: Context, rmap: RmapView, areas: Areas, trees: dict[int, int], held: bool) -> Iterator[Finding]:
    """Each area with anonymous pages is chained to its anon_vma, and every link hangs in its anon_vma's tree."""
    chains, nodes = rmap.chains, rmap.anon_nodes
    judged = rmap.vmas["ok"] & areas.live & areas.listed & ~rmap.chain_cut
    row = rmap.vma_rows(chains["vma"])
    object_row = rows_of(rmap.anon_vmas["anon_vma"], chains["anon_vma"])
    whole = _where(rmap.anon_vmas["whole"], object_row)
    order = np.argsort(nodes["item"], kind="stable")
    found = rows_of(nodes["item"][order], chains["avc"])
    in_tree = (found >= 0) & (_where(nodes["tree"][order], found) == chains["anon_vma"])
    own = chains["anon_vma"] == rmap.vmas["anon_vma"][row]
    has_own = np.zeros(len(rmap.vmas), np.bool_)
    has_own[row[own]] = True
    linked = np.zeros(len(rmap.vmas), np.bool_)
    linked[row] = True
    set_ = rmap.vmas["anon_vma"] != 0
    # A link in a tree whose area's chain does not hold it.
    stray = nodes[~np.isin(nodes["item"], chains["avc"])]
    stray = stray[rmap.vma_rows(stray["vma"]) >= 0]

    parts: list[tuple[NDArray[np.intp], list[str], NDArray[np.uint64], NDArray[np.uint64]]] = []

    def add(rows: NDArray[np.intp], why: str, where: NDArray[np.uint64], tree: NDArray[np.uint64]) -> None:
        parts.append((rows, [why] * len(rows), where, tree))

    vma, anon = rmap.vmas["vma"], rmap.vmas["anon_vma"]
    bad = np.flatnonzero(judged[row] & whole & ~in_tree)
    add(
        row[bad],
        "its link {where:#x} does not hang in the tree of the anon_vma {tree:#x}",
        chains["avc"][bad],
        chains["anon_vma"][bad],
    )
    bad = np.flatnonzero(judged[row] & (chains["back"] != chains["vma"]))
    add(row[bad], "its link {where:#x} says that it is another area's", chains["avc"][bad], chains["anon_vma"][bad])
    bad = np.flatnonzero(judged & set_ & ~has_own)
    add(bad, "its chain has no link to its own anon_vma {tree:#x}", vma[bad], anon[bad])
    bad = np.flatnonzero(judged & ~set_ & linked)
    add(bad, "it has links to anon_vmas and no anon_vma", vma[bad], anon[bad])
    at = rmap.vma_rows(stray["vma"])
    keep = judged[at]
    add(
        at[keep],
        "the tree of the anon_vma {tree:#x} holds a link {where:#x} that its chain lacks",
        stray["item"][keep],
        stray["tree"][keep],
    )

    rows = np.concatenate([part[0] for part in parts])
    why = [text for part in parts for text in part[1]]
    where, tree = (np.concatenate([part[n] for part in parts]) for n in (2, 3))
    now = np.isin(tree, rmap.anon_vmas["anon_vma"][rmap.anon_vmas["held"]]) == held
    rows, where, tree = rows[now], where[now], tree[now]
    why = [text for text, mine in zip(why, now.tolist(), strict=True) if mine]
    for one, held in zip(rows.tolist(), tree.tolist(), strict=True):
        trees.setdefault(held, int(rmap.vmas["mm"][one]))

    def evidence(at: int) -> Evidence:
        spot, held = int(where[at]), int(tree[at])
        reason = why[at].format(where=spot, tree=held)
        return Evidence(
            what=f"{areas.text(int(rows[at]))}: {reason}", view=View.ANON_RMAP.label, address=spot, found=f"{held:#x}"
        )

    yield from _tell(
        context, rules.RMAP_ANON_MISSING, rmap, areas, rows, evidence, "is not linked to its anonymous pages' map"
    )


def _where(values: NDArray[_T], rows: NDArray[np.int64]) -> NDArray[_T]:
    """``values[rows]``, 0 where a row is -1."""
    answer = np.zeros(len(rows), values.dtype)
    answer[rows >= 0] = values[rows[rows >= 0]]
    return answer


def _tell(
    context: Context,
    rule: Rule,
    rmap: RmapView,
    areas: Areas,
    rows: NDArray[np.intp],
    evidence: Callable[[int], Evidence],
    what: str,
) -> Iterator[Finding]:
    """One finding per address space: its areas ``rows`` of ``RmapView.vmas``, and ``what`` about each."""
    yield from context.per_mm(
        rule,
        rmap.vmas["mm"][rows],
        evidence,
        lambda row: f"{areas.text(int(rows[row]))} {what}",
        lambda row: areas.bounds(int(rows[row])),
    )
