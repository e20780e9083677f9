"""The kernel's code in memory beside the file it was booted from: what differs, but for patches of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.arch.reference_text import PatchedPlaces, ReferenceText
from vmaforensics.columns.runs import true_ranges
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import U64
from vmaforensics.views.road.sites import entry_places

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.kernel.reference import ReferenceKernel
    from vmaforensics.views.road.probes import FoundProbes
    from vmaforensics.views.road.tracers import Tracers

_SHOWN: Final = 16  # bytes of a difference that are kept
_APART: Final = 8  # bytes between two differences that are told apart
_MOST: Final = 1 << 16  # differences that are told one by one
_TRAMPOLINE, _KEY = "__SCT__", "__SCK__"  # STATIC_CALL_TRAMP_PREFIX, STATIC_CALL_KEY_PREFIX


@table()
class Differing(Table):
    """Code that is not what the file has, and that no patch of the kernel's own explains; by address."""

    start: U64
    end: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedText:
    """See :func:`compare_text`."""

    asked: bool  # a file was given
    differing: Differing
    found: tuple[bytes, ...]  # the first bytes of each in memory
    linked: tuple[bytes, ...]  # and in the file
    compared: int  # bytes
    unread: int  # pages that are not in the image
    left_out: int  # differences beyond the bound

    @classmethod
    def none(cls) -> ComparedText:
        """No file was given."""
        return cls(asked=False, differing=Differing.zeros(0), found=(), linked=(), compared=0, unread=0, left_out=0)


def compare_text(kernel: Kernel, reference: ReferenceKernel, tracers: Tracers, probes: FoundProbes) -> ComparedText:
    """Every byte of the kernel's code that is in the image."""
    moved, stext, etext = kernel.identity.kaslr_offset, kernel.symbols.get("_stext"), kernel.symbols.get("_etext")
    found = replace(ComparedText.none(), asked=True)
    if moved is None or stext is None or etext is None:
        return found
    places = _places(kernel, reference, moved, tracers, probes)
    for name in reference.code:
        section = reference.sections[name]
        start = section.address + moved
        if start <= stext < start + len(section.data) or stext <= start < etext:  # boot code was given back
            found = _plus(found, _compare(kernel, reference, name, moved, places))
    return found


def _plus(one: ComparedText, other: ComparedText) -> ComparedText:
    return ComparedText(
        asked=True,
        differing=Differing.concatenate([one.differing, other.differing]),
        found=one.found + other.found,
        linked=one.linked + other.linked,
        compared=one.compared + other.compared,
        unread=one.unread + other.unread,
        left_out=one.left_out + other.left_out,
    )


def _compare(kernel: Kernel, reference: ReferenceKernel, name: str, moved: int, places: PatchedPlaces) -> ComparedText:
    linked = reference.sections[name].data
    start, page = reference.sections[name].address + moved, kernel.arch.page_size
    first = start & -page
    pages = np.arange(first, start + len(linked), page, dtype=np.uint64)
    data, ok = kernel.space.gather(pages, page)
    inside = slice(start - first, start - first + len(linked))
    held = np.repeat(ok, page)[inside]
    memory = np.where(held, data.reshape(-1)[inside], linked)
    text = ReferenceText(start=start, found=memory, linked=linked, moved=moved, sections=reference.sections)
    ranges = true_ranges(~kernel.arch.explained_text(kernel, text, places))
    if len(ranges):
        begins = np.concatenate([[True], ranges[1:, 0] - ranges[:-1, 1] >= _APART])
        first_rows = np.flatnonzero(begins)
        last_rows = np.append(first_rows[1:] - 1, len(ranges) - 1)
        ranges = np.stack([ranges[first_rows, 0], ranges[last_rows, 1]], axis=1)
    left_out = max(len(ranges) - _MOST, 0)
    ranges = ranges[:_MOST]
    pairs = [(low, min(high, low + _SHOWN)) for low, high in ranges.tolist()]
    return ComparedText(
        asked=True,
        differing=Differing.of(
            start=ranges[:, 0].astype(np.uint64) + np.uint64(start),
            end=ranges[:, 1].astype(np.uint64) + np.uint64(start),
        ),
        found=tuple(memory[low:high].tobytes() for low, high in pairs),
        linked=tuple(linked[low:high].tobytes() for low, high in pairs),
        compared=int(held.sum()),
        unread=int((~ok).sum()),
        left_out=left_out,
    )


def _places(
    kernel: Kernel, reference: ReferenceKernel, moved: int, tracers: Tracers, probes: FoundProbes
) -> PatchedPlaces:
    """Places of static calls and jump labels by the tables of the file; the others by the kernel's own records."""
    calls, _ = _pairs(kernel, reference, moved, "static_call_sites", "static_call_site")
    labels, targets = _pairs(kernel, reference, moved, "__jump_table", "jump_entry")
    trampolines, called = _trampolines(kernel)
    return PatchedPlaces(
        entries=entry_places(kernel),
        calls=calls,
        labels=labels,
        label_targets=targets,
        trampolines=trampolines,
        trampoline_targets=called,
        probes=probes.probes.addr,
        tracers=tracers.ops.func[tracers.ops.linked],
    )


def _pairs(kernel: Kernel, reference: ReferenceKernel, moved: int, name: str, struct: str) -> tuple[U64, U64]:
    """What the first two signed 32-bit distances of each element of a table lead to, in memory."""
    none = np.zeros(0, np.uint64)
    start, stop = (kernel.symbols.get(f"__{end}_{name}") for end in ("start", "stop"))
    if start is None or stop is None or kernel.types.struct(struct) is None or not 0 < stop - start < 1 << 28:
        return none, none
    size = kernel.sizeof(struct)
    data = reference.read(start - moved, (stop - start) // size * size)
    if data is None:
        return none, none
    words = np.frombuffer(data, "<i4").reshape(-1, size // 4)[:, :2].astype(np.int64).view(np.uint64)
    at = np.arange(start, start + len(words) * size, size, dtype=np.uint64)
    with np.errstate(over="ignore"):
        return at + words[:, 0], at + np.uint64(4) + words[:, 1]


def _trampolines(kernel: Kernel) -> tuple[U64, U64]:
    """Trampolines of static calls, and what the key of each calls."""
    if not kernel.has("static_call_key", "func"):
        return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    symbols = kernel.symbols.by_address()
    called_so = ((row, symbols.name(row)) for row in range(len(symbols)))
    names = {name: int(symbols.addresses[row]) for row, name in called_so if name.startswith((_TRAMPOLINE, _KEY))}
    pairs = [
        (at, names.get(_KEY + name.removeprefix(_TRAMPOLINE), 0))
        for name, at in names.items()
        if name.startswith(_TRAMPOLINE)
    ]
    keys = np.array([key for _, key in pairs], np.uint64)
    called, ok = kernel.gather_member("static_call_key", "func", keys)
    return np.array([at for at, _ in pairs], np.uint64), np.where(ok, called, np.uint64(0))
