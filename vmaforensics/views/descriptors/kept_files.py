"""Open files that no descriptor table has: those in flight over unix sockets, and those io_uring has registered.

What is followed begins at descriptors. Sockets and rings may themselves be in flight, and rings hold sockets: files
that turn up are followed in their turn, until nothing new does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

import numpy as np

from vmaforensics.columns.lookup import distinct, first_rows
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U64
from vmaforensics.views.descriptors.descriptors import inodes_of
from vmaforensics.views.descriptors.files_in_flight import UnixSockets
from vmaforensics.views.descriptors.keepers import KeptFiles, Origins, Walk
from vmaforensics.views.descriptors.registered_files import IoUrings
from vmaforensics.views.problems import Problem, ProblemLog

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.descriptors.descriptors import Descriptors

_MOST_ROUNDS = 64  # sockets in flight in queues of sockets in flight …


@table(struct="file")
class _OpenFiles(Table):
    """What tells sockets and rings among open files."""

    operations: U64 = member("f_op")
    private: U64 = member("private_data")


class _Follower(Protocol):
    """What is done with files of one kind."""

    SYMBOL: ClassVar[str]  # the file operations that tell the kind
    WHAT: ClassVar[str]  # what is found
    MEMBERS: ClassVar[tuple[tuple[str, str], ...]]  # structures and members that are read

    def follow(self, private: U64, origins: Origins) -> list[KeptFiles]:
        """The files kept by those whose ``private_data`` is given, and by what they lead to."""
        ...


class _Kind(NamedTuple):
    operations: int  # address of the file operations that tell the kind
    follower: _Follower


def read_kept_files(kernel: Kernel, descriptors: Descriptors, log: ProblemLog) -> tuple[KeptFiles, bool]:
    """``(files, whole)``: every file that sockets and rings open in ``descriptors`` keep.

    ``whole`` is False if a queue or table could not be read to its end. Kernels without the symbols or structures
    get a line in ``identity.problems`` and no rows.
    """
    walk = Walk(kernel, log)
    kinds = _kinds(walk)
    found: list[KeptFiles] = []
    seen = np.zeros(0, np.uint64)
    first = first_rows(descriptors.file)
    fresh = Origins(file=descriptors.file[first], pid=descriptors.pid[first], fd=descriptors.fd[first])
    for _ in range(_MOST_ROUNDS):
        fresh = _unseen(fresh, seen)
        if not len(fresh):
            break
        seen = distinct(seen, fresh.file)
        files, ok = kernel.gather(_OpenFiles, fresh.file)  # one that is not in the dump was noted on the way here
        kept: list[KeptFiles] = []
        for kind in kinds:
            which = np.flatnonzero(
                ok & (files.operations == kind.operations) & kernel.arch.kernel_pointer(files.private)
            )
            kept += kind.follower.follow(files.private[which], fresh.take(which))
        found += kept
        fresh = Origins.concatenate(Origins(file=rows.file, pid=rows.pid, fd=rows.fd) for rows in kept)
    else:
        walk.lost(Problem.CUT_SHORT, fresh.file)
    rows = KeptFiles.concatenate(found)
    rows = rows.sort_by(rows.by, rows.slot)
    inodes, held = inodes_of(kernel, rows.file, log)
    return rows.replace(inode=inodes), walk.whole and held


def _unseen(origins: Origins, seen: U64) -> Origins:
    """The first row of each file that is not in ``seen``, in the order of ``origins``."""
    rows = origins.take(np.sort(first_rows(origins.file)))
    return rows.take(~np.isin(rows.file, seen))


def _kinds(walk: Walk) -> list[_Kind]:
    """The kinds of files that keep others, as far as those of this kernel can be recognised and read."""
    kernel = walk.kernel
    kinds: list[_Kind] = []
    followers: tuple[_Follower, ...] = (UnixSockets(walk), IoUrings(walk))
    for follower in followers:
        at = kernel.symbols.get(follower.SYMBOL)
        lacking = [f"struct {struct}.{name}" for struct, name in follower.MEMBERS if not kernel.has(struct, name)]
        if at is None or lacking:
            why = f"{', '.join(lacking)} is not in its types"
            if at is None:
                why = f"the symbol {follower.SYMBOL} is unknown"
            kernel.identity.problems.append(f"{follower.WHAT} were not looked for: {why}")
        else:
            kinds.append(_Kind(operations=at, follower=follower))
    return kinds
