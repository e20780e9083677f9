"""Places in code that the kernel patches, and what stands there: entries of functions, static calls, jump labels.

Of each the kernel keeps a record that says what should stand there: ``dyn_ftrace.flags`` (kernel/trace/ftrace.c),
``static_call_key.func`` (kernel/static_call_inline.c), ``jump_entry`` and ``static_key.enabled`` (kernel/jump_label.c).
Only places that are not as they are at rest become rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.arch.branches import BranchKind
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I64, U8, U32, U64, Bools

if TYPE_CHECKING:
    from vmaforensics.arch.branches import Branches
    from vmaforensics.kernel.kernel import Kernel

_MOST_PAGES: Final = 1 << 14  # ftrace_page: one or more for each module
_MOST_RECORDS: Final = 1 << 22
ENABLED: Final = np.uint64(1 << 31)  # FTRACE_FL_ENABLED, of dyn_ftrace.flags
_KEY_FLAGS: Final = np.uint64(3)  # of a static call's, and of a jump entry's key


class SiteKind(IntEnum):
    """Which mechanism patches a place."""

    ENTRY = 0  # entry of a function that can be traced
    STATIC_CALL = 1
    JUMP_LABEL = 2

    @property
    def text(self) -> str:
        """As people say it."""
        return ("entry of a function", "static call", "jump label")[self]


@table()
class Sites(Table):
    """A place whose instruction is not what stands there at rest."""

    at: U64
    site: U8  # SiteKind
    record: U64  # address of what says what should stand there: dyn_ftrace, static_call_key, jump_entry
    flags: U64  # of the record of an entry
    kind: U8  # BranchKind of what stands there
    target: U64  # of a call or jump
    expected: U64  # of static calls and jump labels: where it should lead


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSites:
    """What was looked at, and what of it is not at rest."""

    sites: Sites
    entries: int  # that were read
    calls: int
    labels: int
    unread: int  # places whose code is not in the image
    places: U64  # all that were looked at, sorted

    @classmethod
    def none(cls) -> FoundSites:
        """Nothing was looked at."""
        return cls(sites=Sites.zeros(0), entries=0, calls=0, labels=0, unread=0, places=np.zeros(0, np.uint64))


@table(struct="ftrace_page")
class _Pages(Table):
    after: U64 = member("next")
    records: U64 = member("records")
    index: U32 = member("index")  # how many of them


@table(struct="dyn_ftrace")
class _Records(Table):
    ip: U64 = member("ip")
    flags: U64 = member("flags")


def find_sites(kernel: Kernel) -> FoundSites:
    """Every place that is patched or that could be."""
    parts = [_entries(kernel), _static_calls(kernel), _jump_labels(kernel)]
    return FoundSites(
        sites=Sites.concatenate([part.sites for part in parts]),
        entries=len(parts[0].read),
        calls=len(parts[1].read),
        labels=len(parts[2].read),
        unread=sum(part.unread for part in parts),
        places=np.sort(np.concatenate([part.read for part in parts])),
    )


class _Part(NamedTuple):
    """What one mechanism patches."""

    sites: Sites
    read: U64  # places whose code was read
    unread: int

    @classmethod
    def none(cls) -> _Part:
        """There is no such mechanism."""
        return cls(Sites.zeros(0), np.zeros(0, np.uint64), 0)


def _code(kernel: Kernel, at: U64) -> tuple[Branches, Bools]:
    code, ok = kernel.space.gather(at, kernel.arch.patch_size)
    return kernel.arch.branches(code, at), ok


def _entries(kernel: Kernel) -> _Part:
    """Entries that do not hold a no-operation, or whose record says that they are on."""
    where = _records(kernel)
    if not len(where):
        return _Part.none()
    records, ok = kernel.gather(_Records, where)
    records, where = records.take(ok), where[ok]
    found, read = _code(kernel, records.ip)
    odd = np.flatnonzero(read & ((found.kind != BranchKind.NOP) | ((records.flags & ENABLED) != 0)))
    rows = Sites.of(
        len(odd),
        at=records.ip[odd],
        site=np.full(len(odd), SiteKind.ENTRY),
        record=where[odd],
        flags=records.flags[odd],
        kind=found.kind[odd],
        target=found.target[odd],
    )
    return _Part(rows, records.ip[read], int((~read).sum()) + int((~ok).sum()))


def entry_places(kernel: Kernel) -> U64:
    """Addresses of the entries of all functions that can be traced."""
    records, ok = kernel.gather(_Records, _records(kernel))
    return records.ip[ok]


def _records(kernel: Kernel) -> U64:
    """Addresses of the ``dyn_ftrace`` of all of them."""
    places, at = [np.zeros(0, np.uint64)], kernel.variable("ftrace_pages_start", 8)
    if not kernel.has("ftrace_page", "records") or not kernel.has("dyn_ftrace", "flags"):
        return places[0]
    size, seen, left = np.uint64(kernel.sizeof("dyn_ftrace")), set[int](), _MOST_RECORDS
    while at and at not in seen and len(seen) < _MOST_PAGES:
        seen.add(at)
        pages, ok = kernel.gather(_Pages, np.array([at], np.uint64))
        if not ok[0]:
            break
        count = min(int(pages.index[0]), left)
        left -= count
        places.append(pages.records[0] + np.arange(count, dtype=np.uint64) * size)
        at = int(pages.after[0])
    return np.concatenate(places)


def _table(kernel: Kernel, name: str, size: int) -> U64:
    """Addresses of the elements between ``__start_name`` and ``__stop_name``."""
    start, stop = (kernel.symbols.get(f"__{end}_{name}") for end in ("start", "stop"))
    if start is None or stop is None or not 0 < stop - start < _MOST_RECORDS * size:
        return np.zeros(0, np.uint64)
    return np.arange(start, stop - size + 1, size, dtype=np.uint64)


def _relative(words: U64, at: U64) -> U64:
    """What a signed 32-bit distance from its own address leads to."""
    with np.errstate(over="ignore"):
        found: U64 = at + words.astype(np.uint32).view(np.int32).astype(np.int64).view(np.uint64)
    return found


def _static_calls(kernel: Kernel) -> _Part:
    """Static calls that lead elsewhere than their key says. A key whose function is 0 has no call."""
    if kernel.types.struct("static_call_site") is None or not kernel.has("static_call_key", "func"):
        return _Part.none()
    where = _table(kernel, "static_call_sites", kernel.sizeof("static_call_site"))
    words, ok = kernel.words(where, 1)
    at = _relative(words[:, 0] & np.uint64(0xFFFF_FFFF), where)
    keys = _relative(words[:, 0] >> np.uint64(32), where + np.uint64(4)) & ~_KEY_FLAGS
    init = kernel.symbols.get("_sinittext"), kernel.symbols.get("_einittext")
    if None not in init:  # given back
        ok &= ~((at >= np.uint64(init[0] or 0)) & (at < np.uint64(init[1] or 0)))
    where, at, keys = where[ok], at[ok], keys[ok]
    wanted, known = kernel.gather_member("static_call_key", "func", keys)
    found, read = _code(kernel, at)
    leads = (found.kind == BranchKind.CALL) | (found.kind == BranchKind.JUMP)
    odd = np.flatnonzero(read & known & ((leads & (found.target != wanted)) | (found.kind == BranchKind.BREAKPOINT)))
    return _Part(_rows(SiteKind.STATIC_CALL, odd, at, keys, found, wanted), at[read], int((~read).sum()))


def _jump_labels(kernel: Kernel) -> _Part:
    """Jump labels that lead elsewhere than they can."""
    if kernel.types.struct("jump_entry") is None or kernel.member("jump_entry", "code").size != 4:
        return _Part.none()
    where = _table(kernel, "__jump_table", kernel.sizeof("jump_entry"))
    words, ok = kernel.words(where, 1)
    at = _relative(words[:, 0] & np.uint64(0xFFFF_FFFF), where)
    wanted = _relative(words[:, 0] >> np.uint64(32), where + np.uint64(4))
    stext, etext = kernel.symbols.get("_stext"), kernel.symbols.get("_etext")
    if stext is None or etext is None:
        return _Part.none()
    ok &= (at >= np.uint64(stext)) & (at < np.uint64(etext))  # those of boot code were given back
    where, at, wanted = where[ok], at[ok], wanted[ok]
    found, read = _code(kernel, at)
    leads = (found.kind == BranchKind.CALL) | (found.kind == BranchKind.JUMP)
    odd = np.flatnonzero(read & ((leads & (found.target != wanted)) | (found.kind == BranchKind.BREAKPOINT)))
    return _Part(_rows(SiteKind.JUMP_LABEL, odd, at, where, found, wanted), at[read], int((~read).sum()))


def _rows(site: SiteKind, odd: I64, at: U64, where: U64, found: Branches, wanted: U64) -> Sites:
    return Sites.of(
        len(odd),
        at=at[odd],
        site=np.full(len(odd), site),
        record=where[odd],
        kind=found.kind[odd],
        target=found.target[odd],
        expected=wanted[odd],
    )
