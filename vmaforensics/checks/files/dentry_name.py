"""DENTRY-NAME: name of a file was changed by hand.

*Compared:* the hash of each name that the path of a mapped file is made of (`d_name.hash`) with the hash that this name
has beneath this parent; and, of a name that is on a chain of the table of names, what its chain has there
(`*d_hash.pprev`) with it.

*Guaranteed by:* `d_alloc` and `__d_move` (fs/dcache.c) write name, hash and parent together, under `d_seq`; the hash is
`full_name_hash` of the parent's address and the name (fs/namei.c). `__d_rehash` and `___d_drop` put a dentry on its
chain and take it off; whether it is on one is whether /proc/PID/maps says `(deleted)`. Names of file systems that hash
in their own way (`d_op->d_hash`) are left out. That this kernel hashes so shows by the names themselves: where most of
them have another hash, none is judged.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.files.shown import shown
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import BUG, SMEAR, Rule, Severity
from vmaforensics.views.view import View
from vmaforensics.words.printable import decoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="DENTRY-NAME",
    title="name of a file was changed by hand",
    severity=Severity.HIGH,
    why="A deleted file that is made to look as if it were there, or a name that was written over, hides where the "
    "code of a process comes from. Whoever renames a file through the kernel leaves a name that fits its hash.",
    benign=(SMEAR, BUG),
    attack=("T1036", "T1014"),
    compares="names of mapped files with their hashes, and with the chains that they are on",
    views=(View.VMA, View.FILES),
    transient="a rename under way: d_seq is odd then, and the name is not judged",
    by_hand=("crash: struct dentry.d_name,d_parent,d_hash,d_op ADDRESS", hand.VM),
    steps=("word", "vma"),
    rank=153,
    changed_by=(),
)

_FEWEST = 4  # names that show how this kernel hashes


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process with such names."""
    views = context.views
    if views.identities is None or views.files is None:
        return
    names, paths = views.identities.dentries, views.files.paths
    still = ((names.sequence & np.uint32(1)) == 0) & (names.users >= 0)
    hashed = names.hashed & still & (names.hash != 0)
    fits = names.hash == names.due
    known = int((hashed & fits).sum())
    written = hashed & ~fits if known >= _FEWEST and known * 2 > int(hashed.sum()) else np.zeros(len(names), np.bool_)
    hash_at = views.identities.name_hash
    node = names.dentry + np.uint64(views.identities.dentry_hash)
    unchained = still & (names.pprev != 0) & (names.back != node) & names.chain_read
    rows = np.flatnonzero(written | unchained)
    if not len(rows):
        return
    dentry = views.identities.files.dentry
    who = shown(context, dentry, dentry[names.file[rows]])

    def evidence(at: int) -> Evidence:
        row = int(rows[at])
        path = decoded(paths[int(names.file[row])] or b"unknown")
        if written[row]:
            return Evidence(
                what=f"{path}: a name in it does not fit its hash",
                view=View.FILES.label,
                address=int(names.dentry[row]) + hash_at,
                found=f"{int(names.hash[row]):#x}",
                expected=f"{int(names.due[row]):#x}",
            )
        return Evidence(
            what=f"{path}: a name in it is marked as being in the table of names, and its chain does not have it",
            view=View.FILES.label,
            address=int(node[row]),
            found=f"{int(names.back[row]):#x}",
            expected=f"{int(node[row]):#x}",
        )

    apart = set(who.mm[~(written & names.one_page)[rows]].tolist())
    for finding in context.per_mm(
        RULE, who.mm, evidence, lambda at: evidence(at).what, lambda at: who.bounds(context, at)
    ):
        yield replace(finding, at_once=finding.mm not in apart)
