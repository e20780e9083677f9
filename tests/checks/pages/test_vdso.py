"""VDSO-PAGE, VDSO-AREA and VDSO-IMAGE on views made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from handmade import BASE

from checks.handmade_anchors import add_anchors
from checks.handmade_clocks import START, clocks
from checks.handmade_pages import add_page_tables
from checks.handmade_views import MMS, NODES, Process, findings, mm_of, views_of
from vmaforensics.checks.finding import Severity
from vmaforensics.views.pages.vdso import VdsoPages, VdsoView
from vmaforensics.views.pages.vdso_images import ImagesView, VdsoFunctions, VdsoImages
from vmaforensics.views.processes.mms import MmOffsets
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

VDSO, HEAP, IMAGE = 0x7F0000000, 0x600000, 0xFFFFFFFF_81200000
VMAS = ("400000-402000 r-xp /bin/cat", "600000-604000 rw-p", "7f0000000-7f0002000 r-xp [vdso]")
RULES = ("VDSO-PAGE", "VDSO-AREA", "VDSO-IMAGE")


def _views() -> Views:
    """Two processes with the kernel's vDSO."""
    views = views_of(Process(pid=100, vmas=VMAS), Process(pid=101, vmas=VMAS))
    add_page_tables(views)
    code = views.vmas.start == np.uint64(VDSO)
    views.vmas.kind[code], views.vmas.anon_vma[code] = Kind.SPECIAL, 0
    views.mms.vdso[:] = VDSO
    views.mm_offsets = MmOffsets(vdso=0x2E0)
    add_anchors(views).mms.sysinfo_ehdr[:] = VDSO
    images = VdsoImages.of(
        1, address=[IMAGE], ok=[True], data=[IMAGE + 0x1000], size=[0x2000], own=[True], held=[True], elf=[True]
    )
    functions = VdsoFunctions.of(1, image=[0], value=[0x680], inside=[True], jumps=[False], leads=[-1])
    views.vdso = VdsoView(
        images=ImagesView(
            images=images, names=("vdso_image_64",), functions=functions, function_names=(b"__vdso_time",)
        ),
        image=np.full(2, IMAGE, np.uint64),
        image_row=np.zeros(2, np.int64),
        image_at=0x2E8,
        code=code,
        pages=VdsoPages.zeros(0),
        judged=2,
    )
    return views


def _page(views: Views, **columns: object) -> None:
    """Have the first page of the vDSO of process 101 be another."""
    assert views.page_tables is not None
    assert views.vdso is not None
    ptes = views.page_tables.ptes
    row = int(np.flatnonzero((ptes.va == np.uint64(VDSO)) & (ptes.mm_row == 1))[0])
    vma = int(np.flatnonzero((views.vmas.start == np.uint64(VDSO)) & (views.vmas.mm == np.uint64(mm_of(101))))[0])
    rows = VdsoPages.of(
        1, pte_row=[row], vma_row=[vma], mm_row=[1], pfn=[0x77], expected=[0x12], code=[True], differing=[-1]
    )
    object.__setattr__(
        views.vdso, "pages", rows.replace(**{name: np.array([value]) for name, value in columns.items()})
    )


def test_the_kernels_own_is_none() -> None:
    assert [found for rule in RULES for found in findings(_views(), rule)] == []
    assert [found for rule in RULES for found in findings(views_of(Process()), rule)] == []


def test_a_foreign_page_is_found() -> None:
    views = _views()
    _page(views)
    (found,) = findings(views, "VDSO-PAGE")
    assert (found.mm, found.start, found.end, found.severity) == (mm_of(101), VDSO, VDSO + 0x1000, Severity.HIGH)
    assert found.evidence[0].expected == "frame 0x12"


@pytest.mark.parametrize(("between", "stands"), [(True, True), (False, False)])
def test_a_foreign_page_of_a_process_that_runs_stands_if_its_vdso_was_there_when_the_entry_was_read(
    between: bool, stands: bool
) -> None:
    views = _views()
    _page(views)
    assert views.anchors is not None
    assert views.page_tables is not None
    assert views.vdso is not None
    views.anchors.mms.base[:], views.anchors.mms.phdr[:] = 0x7E0000000, 0x400040
    views.clocks = clocks(ran={100: START + 5.0, 101: START + 5.0})
    row = int(views.vdso.pages.pte_row[0])
    views.page_tables.ptes.where[row] = (MMS - BASE + (1 << 27)) if between else (NODES - BASE)
    assert [bool(found.proven) for found in findings(views, "VDSO-PAGE")] == [stands]


def test_a_private_copy_is_less_and_least_with_a_debugger_attached() -> None:
    for columns, severity in (
        ({"differing": 40}, Severity.MEDIUM),
        ({"differing": 1, "breakpoints": True}, Severity.MEDIUM),
        ({"differing": 1, "breakpoints": True, "traced": True}, Severity.LOW),
        ({"differing": 0}, Severity.LOW),
        ({"differing": -1}, Severity.MEDIUM),
    ):
        views = _views()
        _page(views, copy=True, **columns)
        (found,) = findings(views, "VDSO-PAGE")
        assert found.severity is severity


def test_context_vdso_that_names_other_memory_is_found() -> None:
    views = _views()
    views.mms.vdso[1] = HEAP
    found = findings(views, "VDSO-AREA")
    assert [(one.mm, one.start, one.severity) for one in found] == [
        (mm_of(101), HEAP, Severity.HIGH),
        (mm_of(101), HEAP, Severity.INFO),  # what the auxiliary vector says
    ]
    assert found[0].evidence[0].address == mm_of(101) + 0x2E0


def test_code_of_the_kernel_that_is_elsewhere_than_said_is_found() -> None:
    views = _views()
    views.mms.vdso[1] = 0x5000000  # where no VMA is
    assert [one.severity for one in findings(views, "VDSO-AREA")] == [Severity.MEDIUM, Severity.INFO]


def test_an_image_that_is_none_of_the_kernels_is_found() -> None:
    views = _views()
    assert views.vdso is not None
    views.vdso.image_row[1], views.vdso.image[1] = -1, 0xFFFF8880_00001000
    (found,) = findings(views, "VDSO-AREA")
    assert found.evidence[0].address == mm_of(101) + 0x2E8


def test_processes_without_a_vdso_are_none() -> None:
    views = _views()
    assert views.vdso is not None
    views.mms.vdso[:] = 0
    views.vdso.image_row[:] = -1
    views.vdso.code[:] = False
    assert findings(views, "VDSO-AREA") == []


def test_an_image_that_was_changed_is_found() -> None:
    for column, value, words in (
        ("own", False, "not what the kernel was built with"),
        ("elf", False, "no ELF shared object"),
    ):
        views = _views()
        assert views.vdso is not None
        getattr(views.vdso.images.images, column)[0] = value
        (found,) = findings(views, "VDSO-IMAGE")
        assert found.mm == 0
        assert words in found.title
    views = _views()
    assert views.vdso is not None
    views.vdso.images.images.elf[0] = views.vdso.images.images.held[0] = False
    assert findings(views, "VDSO-IMAGE") == []  # it is not in the image


def test_a_function_that_jumps_out_of_the_image_is_found() -> None:
    for leads, told in ((0x1000, False), (0x2000, True), (-1, True)):
        views = _views()
        assert views.vdso is not None
        functions = views.vdso.images.functions
        functions.jumps[0], functions.leads[0] = True, leads
        found = findings(views, "VDSO-IMAGE")
        assert bool(found) is told
        if found:
            assert "its function __vdso_time begins with a jump out of it" in found[0].title
            assert found[0].evidence[0].address == IMAGE + 0x1000 + 0x680
