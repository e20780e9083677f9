"""Questions the other way round: who has this frame, who has this file, as a document and as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from vmaforensics.columns.lookup import distinct, values_at
from vmaforensics.compare.known_regions import KnownRegions, executes, known_regions
from vmaforensics.errors import UsageError
from vmaforensics.views.pages.frame_kinds import FrameKind
from vmaforensics.views.pages.mapped_pages import read_pages
from vmaforensics.words.permissions import entry_permissions, vma_permissions
from vmaforensics.words.printable import comm_of, decoded, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.columns.types import I64
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.mapped_pages import Pages
    from vmaforensics.views.views import Views

MOST = 1 << 16  # users that are told of


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A process that has a frame or a file in its memory."""

    pid: int
    comm: str
    mm: str
    start: str | None  # of the region; null where no record has one
    end: str | None
    perms: str
    name: str
    hidden: bool  # the kernel's own index lacks the region
    shown_by: tuple[str, ...]
    address: str | None = None  # of the frame, in that process
    entry: str | None = None  # the page-table entry, and what it allows
    allows: str = ""
    offset: str | None = None  # of the region in the file
    mapped: int | None = None  # pages that entries lead to
    code: int | None = None  # of these, what user mode may execute


class FrameUsers(msgspec.Struct, frozen=True, kw_only=True):
    """A page frame: what it is, and who maps it."""

    pfn: str
    kind: str
    mapping: str | None  # address_space or anon_vma
    index: int | None
    mapcount: int | None
    refcount: int | None
    file: str | None
    users: list[User]
    left_out: int


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who keeps a file open, or runs it."""

    pid: int
    how: str


class FileUsers(msgspec.Struct, frozen=True, kw_only=True):
    """Files of one path or number, and who has them."""

    asked: str
    inodes: list[str]  # addresses
    names: list[str]
    users: list[User]
    holders: list[Holder]
    left_out: int


def frame_users(kernel: Kernel, views: Views, pfn: int) -> FrameUsers:
    """Who maps the page frame ``pfn``. Raises :class:`UsageError` for what is no frame number."""
    if not 0 <= pfn < 1 << 40:
        raise UsageError(f"{pfn:#x} is no page frame number")
    regions = known_regions(views)
    pages = read_pages(kernel, np.array([pfn], np.uint64))
    known = bool(pages.ok[0])
    users: list[User] = []
    left_out = 0
    for user in _mapping(kernel, views, regions, pfn):
        if len(users) < MOST:
            users.append(user)
        else:
            left_out += 1
    return FrameUsers(
        pfn=hex(pfn),
        kind=_kind(views, pages, pfn),
        mapping=hex(int(pages.mapping[0])) if known and pages.mapping[0] else None,
        index=int(pages.index[0]) if known and pages.mapping[0] else None,
        mapcount=int(pages.mapcount[0]) if known else None,
        refcount=int(pages.refcount[0]) if known else None,
        file=_file_of(views, int(pages.mapping[0])) if known and not pages.anon[0] else None,
        users=users,
        left_out=left_out,
    )


def _kind(views: Views, pages: Pages, pfn: int) -> str:
    if views.frames is not None:
        return FrameKind(int(views.frames.kinds.of(np.array([pfn], np.uint64))[0])).label
    return "anonymous" if pages.anon[0] else "unknown"


def _mapping(kernel: Kernel, views: Views, regions: KnownRegions, pfn: int) -> Iterator[User]:
    """Every entry that leads to a frame."""
    view, wanted = views.page_tables, np.uint64(pfn)
    if view is None:
        return
    for batch in view.entries.batches():
        ptes = batch.ptes
        size = ptes.pages(kernel.arch).astype(np.uint64)
        hits = np.flatnonzero(ptes.maps_frames() & (ptes.pfn <= wanted) & (wanted < ptes.pfn + size))
        for row in hits.tolist():
            mm_row = int(ptes.mm_row[row])
            address = int(ptes.va[row]) + ((pfn - int(ptes.pfn[row])) << kernel.arch.page_shift)
            region = _region_at(regions, mm_row, address)
            yield msgspec.structs.replace(
                _user(views, regions, mm_row, region),
                address=hex(address),
                entry=hex(int(ptes.entry[row])),
                allows=entry_permissions(int(ptes.allow[row])),
            )


def _region_at(regions: KnownRegions, mm_row: int, address: int) -> int:
    """The region of an mm at an address; hidden ones last, -1 for none."""
    rows, at = regions.rows, np.uint64(address)
    hits = np.flatnonzero((rows.mm_row == mm_row) & (rows.start <= at) & (at < rows.end))
    return int(hits[np.argsort(rows.hidden[hits], kind="stable")][0]) if len(hits) else -1


def _user(views: Views, regions: KnownRegions, mm_row: int, region: int) -> User:
    mms, rows, known = views.mms, regions.rows, region >= 0
    perms = ""
    if known:
        flags, allow = int(rows.flags[region]), int(rows.allow[region])
        perms = vma_permissions(flags) if rows.vma[region] else entry_permissions(allow)
    return User(
        pid=int(mms.pid[mm_row]),
        comm=printable(comm_of(mms.comm[mm_row])),
        mm=hex(int(mms.mm[mm_row])),
        start=hex(int(rows.start[region])) if known else None,
        end=hex(int(rows.end[region])) if known else None,
        perms=perms,
        name=printable(regions.name(region)) if known else "",
        hidden=bool(rows.hidden[region]) if known else True,
        shown_by=regions.records(region) if known else ("page tables",),
    )


def _file_of(views: Views, mapping: int) -> str | None:
    """The name of the file whose page cache that is, as far as something names it."""
    if views.files is not None:
        for row in np.flatnonzero(views.files.rows.mapping == np.uint64(mapping)).tolist():
            path = views.files.paths[row]
            if path is not None:
                return printable(path)
    if views.handles is not None:
        for row in np.flatnonzero(views.handles.memory_files.mapping == np.uint64(mapping)).tolist():
            return printable(views.handles.names[row] or b"a memory file without a name")
    return None


class _Files(NamedTuple):
    """The files that are asked for."""

    files: I64  # rows of views.files
    inodes: np.ndarray[tuple[int], np.dtype[np.uint64]]
    names: list[str]


def file_users(kernel: Kernel, views: Views, *, path: str | None = None, inode: int | None = None) -> FileUsers:
    """Who maps, opened or runs the files of a path, as the kernel shows it, or of an inode number.

    Raises :class:`UsageError` if nothing in the image has such a file.
    """
    asked = path if path is not None else f"inode {inode}"
    chosen = _chosen(views, path, inode)
    holders = list(_holders(views, chosen))
    if not len(chosen.inodes):
        raise UsageError(f"no process maps, runs or has opened {printable(asked)}")
    files = views.files
    every = known_regions(views)
    mine = np.zeros(len(every.rows), np.bool_)
    if files is not None:
        mine = np.isin(every.rows.file, files.rows.file[chosen.files]) & (every.rows.file != 0)
    regions = every.take(mine)
    users = []
    for row in range(min(len(regions.rows), MOST)):
        mapped, code = _counts(kernel, views, regions, row)
        users.append(
            msgspec.structs.replace(
                _user(views, regions, int(regions.rows.mm_row[row]), row),
                offset=hex(int(regions.rows.pgoff[row]) << kernel.arch.page_shift),
                mapped=mapped,
                code=code,
            )
        )
    return FileUsers(
        asked=printable(asked),
        inodes=[hex(address) for address in chosen.inodes.tolist()],
        names=chosen.names,
        users=users,
        holders=holders[:MOST],
        left_out=max(len(regions.rows) - MOST, 0) + max(len(holders) - MOST, 0),
    )


def _chosen(views: Views, path: str | None, inode: int | None) -> _Files:
    rows, names = np.zeros(0, np.int64), []
    inodes = [np.zeros(0, np.uint64)]
    if views.files is not None:
        table = views.files
        fits = [
            bool(table.rows.ino[row] == np.uint64(inode)) if inode is not None else _is(name, path)
            for row, name in enumerate(table.paths)
        ]
        rows = np.flatnonzero(np.array(fits, np.bool_) & table.rows.ok).astype(np.int64)
        inodes.append(table.rows.inode[rows])
        names += [printable(name) for row in rows.tolist() if (name := table.paths[row]) is not None]
    if views.handles is not None and path is not None:
        files = views.handles.memory_files
        at = [row for row, name in enumerate(views.handles.names) if _is(name, path)]
        inodes.append(files.inode[np.array(at, np.int64)])
        names += [printable(views.handles.names[row] or b"") for row in at]
    return _Files(rows, distinct(np.concatenate(inodes)), sorted(set(names)))


def _is(name: bytes | None, path: str | None) -> bool:
    """Is this the path that was asked for, as the kernel has it or as it is shown?"""
    return name is not None and path is not None and path in (decoded(name), printable(name))


def _holders(views: Views, chosen: _Files) -> Iterator[Holder]:
    if views.handles is not None:
        rows = views.handles.descriptors
        for row in np.flatnonzero(np.isin(rows.inode, chosen.inodes) & (rows.inode != 0)).tolist():
            yield Holder(pid=int(rows.pid[row]), how=f"descriptor {int(rows.fd[row])}")
    if views.files is not None:
        files = views.files.rows.file[chosen.files]
        for row in np.flatnonzero(np.isin(views.mms.exe_file, files) & (views.mms.exe_file != 0)).tolist():
            yield Holder(pid=int(views.mms.pid[row]), how="runs it (exe_file)")


def _counts(kernel: Kernel, views: Views, regions: KnownRegions, row: int) -> tuple[int, int]:
    """Pages of a region that entries lead to, and of these, code."""
    view = views.page_tables
    if view is None:
        return 0, 0
    rows = regions.rows
    found = view.entries.inside(rows.mm_row[row : row + 1], rows.start[row : row + 1], rows.end[row : row + 1]).ptes
    pages = np.where(found.maps_frames(), found.pages(kernel.arch), 0)
    return int(pages.sum()), int(values_at(pages, np.flatnonzero(executes(found.allow))).sum())


def frame_text(found: FrameUsers) -> Iterator[str]:
    """Lines on a frame."""
    counts = "" if found.mapcount is None else f", mapcount {found.mapcount}, refcount {found.refcount}"
    yield f"frame {found.pfn}: {found.kind}{counts}\n"
    if found.mapping is not None:
        name = f" ({found.file})" if found.file else ""
        yield f"  mapping {found.mapping}{name}, page {found.index}\n"
    for user in found.users:
        yield f"  {_line(user)} at {user.address}, entry {user.entry} {user.allows}{_shown(user)}\n"
    if not found.users:
        yield "  no page-table entry of a process leads to it\n"
    if found.left_out:
        yield f"  and {found.left_out} more\n"


def file_text(found: FileUsers) -> Iterator[str]:
    """Lines on a file."""
    yield f"{found.asked}: {', '.join(found.names)}; inode at {', '.join(found.inodes)}\n"
    for user in found.users:
        code = f", {user.code} as code" if user.code else ""
        yield f"  {_line(user)} from byte {user.offset}, {user.mapped} pages mapped{code}{_shown(user)}\n"
    for holder in found.holders:
        yield f"  pid {holder.pid}: {holder.how}\n"
    if found.left_out:
        yield f"  and {found.left_out} more\n"


def _line(user: User) -> str:
    region = f"{user.start}-{user.end} {user.perms} {user.name}".rstrip() if user.start else "in no region"
    return f"pid {user.pid} ({user.comm}) {region}"


def _shown(user: User) -> str:
    return f" (hidden, shown by {', '.join(user.shown_by)})" if user.hidden else ""
