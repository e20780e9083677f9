"""FILE-IDENTITY: file is shown under a name that is another file's.

*Compared:* `d_inode` of the dentry that a mapped file is named by (`f_path.dentry`) with its own inode (`f_inode`); the
file system of that dentry (`d_sb`) with that of the mount (`mnt_sb`); the file whose pages it has (`f_mapping->host`)
with its inode, and `f_mapping` with `i_mapping` of that inode.

*Guaranteed by:* `do_dentry_open` (fs/open.c) takes inode and pages from the dentry of the path, and `f_path` never
changes afterwards; a dentry keeps its inode as long as somebody has it open (`d_delete`, fs/dcache.c). A file that
overlayfs opened beneath itself has the path of the one above: stacked file systems are left out. Files of devices may
have pages of another inode that is no regular file (`f_mapping` of sysfs resources, DAX).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.files.shown import shown
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import BUG, SMEAR, Rule, Severity
from vmaforensics.columns.lookup import first_rows
from vmaforensics.views.view import View
from vmaforensics.words.printable import decoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="FILE-IDENTITY",
    title="file is shown under a name that is another file's",
    severity=Severity.HIGH,
    why="The path in /proc/PID/maps and /proc/PID/exe comes from one record of a file, its contents from another. Who "
    "points the first to a harmless file hides which one is mapped.",
    benign=(SMEAR, BUG, "a file system that stands upon others and is not known"),
    attack=("T1036", "T1014"),
    compares="f_path, f_inode, f_mapping and i_mapping of mapped files with each other",
    views=(View.VMA, View.FILES),
    transient="none: all of them are set when the file is opened",
    by_hand=("crash: struct file.f_path,f_inode,f_mapping ADDRESS", hand.VM),
    steps=("word", "vma"),
    rank=152,
    changed_by=(),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process with such files."""
    views = context.views
    if views.identities is None or views.files is None or not len(views.files.rows):
        return
    files, paths = views.identities.files, views.files.paths
    name = files.ok & ~files.stacked & (files.named != files.inode)
    mount = files.ok & (files.mount_sb != files.dentry_sb)
    pages = files.ok & ~files.stacked & files.foreign
    own = files.ok & ~files.stacked & files.exchanged
    wrong = name | mount | pages | own
    # What is wrong with an inode or its pages is so in all files that were opened of it, and is told once.
    of_inode = wrong & ~name & ~mount & (own | (files.mapping == files.pages))
    key = np.where(of_inode, files.inode, files.file)
    rows = np.flatnonzero(wrong)
    rows = np.sort(rows[first_rows(key[rows])])
    if not len(rows):
        return
    who = shown(context, key, key[rows])

    def evidence(at: int) -> Evidence:
        row = int(rows[at])
        path = decoded(paths[row] or b"unknown")
        what, found, expected = (
            ("its name is that of another inode", files.named, files.inode)
            if name[row]
            else ("its mount is of another file system", files.mount_sb, files.dentry_sb)
            if mount[row]
            else ("its pages are those of another file", files.mapping, files.pages)
            if pages[row]
            else ("who opens it next gets the pages of another file", files.pages, files.mapping)
        )
        return Evidence(
            what=f"file shown as {path}: {what}",
            view=View.FILES.label,
            address=int(files.file[row]),
            found=f"{int(found[row]):#x}",
            expected=f"{int(expected[row]):#x}",
        )

    for finding in context.per_mm(
        RULE, who.mm, evidence, lambda at: evidence(at).what, lambda at: who.bounds(context, at)
    ):
        yield replace(finding, settled=True)  # files that are mapped or are a program stay what they are
