"""The page tables against the areas, the pages and the counters.

Every entry of the user half lies in an area, allows what the area allows and no more, leads to a page that
names the area's own file or anon_vma at the right offset, and is counted there: free_pgtables,
zap_pte_range, __page_set_anon_rmap (mm/memory.c, mm/rmap.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vmaforensics.checks import rules
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.runs import Runs
from vmaforensics.kernel import paging
from vmaforensics.views import flags
from vmaforensics.views.page_tables import PteState, covering
from vmaforensics.views.tables import Kind, View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding, Rule
    from vmaforensics.views.page_tables import PageTablesView

_PROT_PRESENT, _PROT_WRITE = np.uint64(1), np.uint64(2)
_PROT_NX = np.uint64(1 << 63)


def check_page_tables(context: Context) -> Iterator[Finding]:
    """PTE-ORPHAN, PTE-PERM, PTE-KERNEL, PTE-REMAP, VMA-PROT and PT-SHARED."""
    view = context.views.page_tables
    if view is None:
        return
    yield from _orphans(context, view)
    yield from _permissions(context, view)
    yield from _owners(context, view)
    yield from _page_prot(context)
    yield from _shared_tables(context, view)
    yield from _isolation(context, view)


def _orphans(context: Context, view: PageTablesView) -> Iterator[Finding]:
    ptes = view.ptes[view.orphans]
    mm = context.views.mms["mm"][ptes["mm_row"]]
    # Said of a process only if its whole map was read: an area on a lost page may be what is missing.
    certain = np.ones(len(ptes), np.bool_)
    for index in context.views.regions():
        certain &= context.decoded(index, mm)
    runs = Runs.of(view, view.orphans[certain])
    contents = dict(zip(view.orphans.tolist(), view.contents, strict=False))

    def evidence(row: int) -> Evidence:
        first = runs.first(row)
        executable = int(view.ptes["allow"][first]) & paging.ALLOW_EXECUTE
        held = contents.get(first, "")
        return Evidence(
            what=f"page tables map {runs.text(row)} as {'executable' if executable else 'data'}, in no area"
            + (f"; its first page holds {held}" if held else ""),
            view=View.PAGE_TABLES.label,
            address=int(view.ptes["where"][first]),
            found=f"{int(view.ptes['entry'][first]):#x}",
        )

    yield from context.per_mm(
        rules.PTE_ORPHAN,
        runs.mm(context),
        evidence,
        lambda row: f"page tables map {runs.text(row)} outside every area of the process",
        runs.bounds,
    )


def _tell(context: Context, rule: Rule, view: PageTablesView, wrong: NDArray[np.intp], what: str) -> Iterator[Finding]:
    """One finding per process for entries that are wrong in the same way; ``what`` ends the sentence."""
    runs = Runs.of(view, wrong)

    def evidence(row: int) -> Evidence:
        first = runs.first(row)
        return Evidence(
            what=f"{runs.text(row)} {what}",
            view=View.PAGE_TABLES.label,
            address=int(view.ptes["where"][first]),
            found=f"{int(view.ptes['entry'][first]):#x}",
        )

    yield from context.per_mm(
        rule, runs.mm(context), evidence, lambda row: f"{runs.text(row)} {what}", runs.bounds
    )


def _permissions(context: Context, view: PageTablesView) -> Iterator[Finding]:
    ptes = view.ptes
    vmas, at = context.views.vmas, view.areas["vma_row"][ptes["area"]]
    seen = (ptes["area"] >= 0) & vmas["ok"][at] & (ptes["state"] == PteState.PRESENT)
    execute = (ptes["allow"] & paging.ALLOW_EXECUTE) != 0
    may_execute = ((vmas["flags"] & np.uint64(flags.VM_EXEC)) != 0)[at]
    write = (ptes["allow"] & paging.ALLOW_WRITE) != 0
    may_write = ((vmas["flags"] & np.uint64(flags.VM_WRITE)) != 0)[at]
    user = (ptes["allow"] & paging.ALLOW_USER) != 0
    for wrong, what in (
        (execute & ~may_execute, "can be executed, though its area is not executable"),
        (~execute & may_execute, "cannot be executed, though its area is executable"),
        (write & ~may_write, "can be written, though its area is not writable"),
        (~user, "is mapped for the kernel only, in a user area"),
    ):
        yield from _tell(context, rules.PTE_PERM, view, np.flatnonzero(seen & wrong), what)


def _owners(context: Context, view: PageTablesView) -> Iterator[Finding]:
    """Does each page lead back to the area it is mapped in?"""
    files = context.views.files
    if files is None:
        return
    # There may be millions of entries: what an area says is worked out once per area, and only columns are taken.
    vmas, pages = context.views.vmas, view.pages.rows
    entry = np.flatnonzero((view.ptes["area"] >= 0) & (view.ptes["page"] >= 0))
    if not len(entry):
        return
    va, page, area = (view.ptes[name][entry] for name in ("va", "page", "area"))
    vma = view.areas["vma_row"][area]
    file_row = vmas["file_row"]
    # Pages of devices, sockets and rings are the driver's own and name nobody.
    regular = (file_row >= 0) & _column(files.rows, "regular", file_row) & _column(files.rows, "ok", file_row)
    in_file = (regular & np.isin(vmas["kind"], (Kind.FILE, Kind.SHARED_MEMORY)))[vma]
    anonymous = ((vmas["kind"] == Kind.ANONYMOUS) & (vmas["file"] == 0))[vma]
    seen = vmas["ok"][vma] & pages["ok"][page]
    seen &= pages["pfn"][page] == view.ptes["pfn"][entry]
    kernel_own = pages["slab"][page]
    judged = seen & (in_file | anonymous) & ~pages["ksm"][page] & ~kernel_own
    offset = (va - vmas["start"][vma]) >> np.uint64(12)
    index, anon, root = pages["index"][page], pages["anon"][page], view.page_root[page]
    foreign = anon & ((root == 0) | (root != view.vma_root[vma]))
    shifted = anon & ~foreign & (index != vmas["anon_pgoff"][vma] + offset)
    mapping = _column(files.rows, "mapping", file_row)[vma]
    other_file = ~anon & in_file & (pages["mapping"][page] != mapping)
    misplaced = ~anon & in_file & ~other_file & (index != vmas["pgoff"][vma] + offset)
    unnamed = ~anon & anonymous
    yield from _tell(
        context, rules.PTE_KERNEL, view, entry[seen & kernel_own],
        "leads to the kernel's own memory (slab or page table)",
    )  # fmt: skip
    for wrong, what in (
        (foreign, "leads to an anonymous page of another anon_vma"),
        (shifted, "leads to an anonymous page that belongs at another address"),
        (other_file, "leads to a page of another file than its area maps"),
        (misplaced, "leads to a page from another place of the file than its area maps there"),
        (unnamed, "leads to a page that is not anonymous, in an anonymous area"),
    ):
        yield from _tell(context, rules.PTE_REMAP, view, entry[judged & wrong], what)


def _column(rows: NDArray[np.void], name: str, at: NDArray[np.int64]) -> NDArray[Any]:
    return rows[name][at] if len(rows) else np.zeros(len(at), rows.dtype[name])


def _page_prot(context: Context) -> Iterator[Finding]:
    """vm_page_prot follows from vm_flags (vm_get_page_prot); an entry without access has no NX bit."""
    rows = context.views.regions()[context.index]
    vmas = context.views.vmas[rows["vma_row"]]
    prot, vm_flags = vmas["page_prot"], vmas["flags"]
    judged = vmas["ok"] & ((prot & _PROT_PRESENT) != 0)
    execute = (prot & _PROT_NX) == 0
    write = (prot & _PROT_WRITE) != 0
    may_execute = (vm_flags & np.uint64(flags.VM_EXEC)) != 0
    may_write = (vm_flags & np.uint64(flags.VM_WRITE | flags.VM_SHARED)) == np.uint64(flags.VM_WRITE | flags.VM_SHARED)
    wrong = np.flatnonzero(judged & ((execute != may_execute) | (write & ~may_write)))
    rows, vmas = rows[wrong], vmas[wrong]

    def evidence(row: int) -> Evidence:
        return Evidence(
            what=f"vm_page_prot of {int(vmas['vma'][row]):#x} is {int(vmas['page_prot'][row]):#x}, vm_flags are "
            f"{int(vmas['flags'][row]):#x}",
            view=View.VMA.label,
            address=int(vmas["vma"][row]),
        )

    yield from context.per_mm(
        rules.PROT,
        rows["mm"],
        evidence,
        lambda row: f"vm_page_prot of the {context.area(int(vmas['vma'][row]))} allows other than its vm_flags",
        lambda row: (int(vmas["start"][row]), int(vmas["end"][row])),
    )


def _shared_tables(context: Context, view: PageTablesView) -> Iterator[Finding]:
    """A page table belongs to one process; only tables of huge pages may be shared (huge_pmd_share)."""
    tables = view.tables
    order = np.argsort(tables["pa"], kind="stable")
    same = tables["pa"][order][1:] == tables["pa"][order][:-1]
    again = np.zeros(len(tables), np.bool_)
    again[order[1:][same]] = again[order[:-1][same]] = True
    # What a table maps decides: entries of areas of huge pages excuse it.
    huge = (view.areas["vma_row"] >= 0) & (
        context.views.vmas["kind"][np.maximum(view.areas["vma_row"], 0)] == Kind.HUGETLB
    )

    size = np.uint64(1) << (np.uint64(12) + np.uint64(9) * tables["level"].astype(np.uint64))
    first = covering(view.areas, tables["owner"], tables["va"])
    last = covering(view.areas, tables["owner"], tables["va"] + size - np.uint64(1))
    excused = ((first >= 0) & huge[first]) | ((last >= 0) & huge[last])
    wrong = np.flatnonzero(again & ~(excused & (tables["level"] == 2)))
    rows = tables[wrong]

    def evidence(row: int) -> Evidence:
        owners = np.unique(context.views.mms["pid"][tables["owner"][tables["pa"] == rows["pa"][row]]])
        names = ", ".join(str(pid) for pid in owners[:8].tolist())
        return Evidence(
            what=f"the level {int(rows['level'][row])} table at physical {int(rows['pa'][row]):#x} is reached more "
            f"than once (pids {names})",
            view=View.PAGE_TABLES.label,
            address=int(rows["pa"][row]),
        )

    def bounds(row: int) -> tuple[int, int]:
        return int(rows["va"][row]), int(rows["va"][row] + size[wrong[row]])

    yield from context.per_mm(
        rules.PT_SHARED,
        context.views.mms["mm"][rows["owner"]],
        evidence,
        lambda row: f"a page table for {int(rows['va'][row]):#x} is shared with another process or place",
        bounds,
    )


def _isolation(context: Context, view: PageTablesView) -> Iterator[Finding]:
    wrong = np.flatnonzero(view.isolated)
    mm = context.views.mms["mm"][wrong]
    yield from context.per_mm(
        rules.PT_ISOLATION,
        mm,
        lambda row: Evidence(
            what=f"{int(view.isolated[wrong[row]])} top-level entries differ between the kernel's and the user's copy",
            view=View.PAGE_TABLES.label,
            address=int(context.views.mms["pgd"][wrong[row]]),
        ),
        lambda row: "the two copies of the page tables (page-table isolation) disagree",
    )
