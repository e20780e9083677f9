"""VDSO-IMAGE: the kernel's own copy of the vDSO was changed.

*Compared:* each `struct vdso_image` with the data the kernel was built with (`raw_data`); its contents with the shape
of an ELF shared object; the first instruction of each function among its dynamic symbols: none jumps out of the image.

*Guaranteed by:* vdso2c.c makes structure and data at build time; both are read-only from boot on (`init_vdso_image`
applies alternatives before). Further patches inside of a function are not seen by this rule.

*Contents:* the pages of the image are part of the kernel's data; excerpts leave them out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import BUG, SMEAR, Rule, Severity
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.view import View
from vmaforensics.words.printable import decoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.pages.vdso_images import ImagesView

RULE = Rule(
    id="VDSO-IMAGE",
    title="the kernel's own copy of the vDSO was changed",
    severity=Severity.HIGH,
    why="The kernel maps these pages into every process: what is changed there runs in all of them.",
    benign=(SMEAR, BUG),
    attack=("T1055.014", "T1014"),
    compares="struct vdso_image with raw_data, its contents with an ELF shared object, where its functions begin",
    views=(View.PAGE_TABLES,),
    transient="none",
    by_hand=("crash: struct vdso_image vdso_image_64", "crash: sym raw_data"),
    steps=("word",),
    rank=576,
    changed_by=(),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each image that is wrong, of no process."""
    view = context.views.vdso
    if view is None:
        return
    images = view.images.images
    for row in np.flatnonzero(images.ok).tolist():
        evidence = list(_wrong(view.images, row))
        if evidence:
            yield context.finding(RULE, 0, f"{view.images.names[row]}: {evidence[0].what}", evidence)


def _wrong(view: ImagesView, row: int) -> Iterator[Evidence]:
    images, functions = view.images, view.functions
    address, data, size = (int(column[row]) for column in (images.address, images.data, images.size))
    if not images.own[row]:
        what = f"its data is at {data:#x}, which is not what the kernel was built with"
        yield Evidence(what=what, view=View.PAGE_TABLES.label, address=address, found=f"{data:#x}")
    if images.held[row] and not images.elf[row]:
        what = "its data is no ELF shared object with dynamic symbols"
        yield Evidence(what=what, view=View.PAGE_TABLES.label, address=data)
    leads = functions.leads
    within = (leads >= 0) & (leads < values_at(images.size, functions.image).astype(np.int64))
    wrong = (functions.image == row) & (~functions.inside | (functions.jumps & ~within))
    for at in np.flatnonzero(wrong).tolist():
        name, value = decoded(view.function_names[at]), int(functions.value[at])
        lies = "begins with a jump out of it" if value < size else "lies outside of it"
        yield Evidence(what=f"its function {name} {lies}", view=View.PAGE_TABLES.label, address=data + value)
