"""The part ``symbols`` of an ISF: every symbol of kallsyms at the address it was linked to."""

from __future__ import annotations

import base64
import re
from bisect import bisect_right
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from vmaforensics.export.isf.types import FUNCTION, VOID, Descriptor, IsfTypes
from vmaforensics.export.isf.variables import VARIABLES
from vmaforensics.kernel.structures import btf_records as btf

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.kernel.structures.btf import Btf
    from vmaforensics.kernel.symbols.kallsyms import Kallsyms

_DECLARATION = re.compile(r"(?:struct |union |enum )?([\w ]+|\(\)|\{[\w, ]+\})((?:\*|\[[\d*]*\])*)")
_SUFFIX = re.compile(r"\*|\[([\d*]*)\]")
_MOST_ROOM = 1024  # bytes of a variable whose elements are counted
_BANNER_LIMIT = 1024


def linked(symbols: Kallsyms, kaslr: int, image_start: int) -> dict[str, int]:
    """Name → address as linked. Of several symbols of one name a global one counts, then the first.

    Addresses below ``image_start`` (per-CPU offsets, up to Linux 6.14) were not moved and stay.
    """
    found: dict[str, int] = {}
    exported: set[str] = set()
    for address, kind, name in symbols.items():
        if name in found and (name in exported or not kind.isupper()):
            continue
        if kind.isupper():
            exported.add(name)
        found[name] = address - kaslr if address >= image_start else address
    for name, offset in _own_tables(symbols).items():
        found.setdefault(name, symbols.place + offset - kaslr)
    return found


def _own_tables(symbols: Kallsyms) -> dict[str, int]:
    """The tables of kallsyms, by offset from ``symbols.place``: up to 6.10 they do not list themselves."""
    tables = symbols.tables
    if tables is None:
        return {}
    named = {
        "kallsyms_num_syms": tables.num_syms,
        "kallsyms_names": tables.names,
        "kallsyms_markers": tables.markers,
        "kallsyms_token_table": tables.token_table,
        "kallsyms_token_index": tables.token_index,
        "kallsyms_offsets": tables.offsets,
    }
    if tables.relative_base is not None:
        late = tables.offsets > tables.token_index
        behind = tables.offsets + -(-4 * tables.count // 8) * 8
        named["kallsyms_relative_base"] = behind if late else tables.num_syms - 8
    return named


def isf_symbols(kernel: Kernel, addresses: dict[str, int], types: IsfTypes, described: Btf) -> dict[str, Any]:
    """Every symbol with its type where that is known, void where not; the banner with its bytes."""
    known = described_variables(types, described)
    edges = sorted(set(addresses.values()))
    table: dict[str, Any] = {}
    for name in sorted(addresses):
        found = known.get(name)
        for text in VARIABLES.get(name, ()):
            found = declaration(text, types, partial(_content, kernel, name, addresses[name], edges)) or found
            if found is not None:
                break
        table[name] = {"address": addresses[name], "type": found or VOID}
    banner = banner_bytes(kernel)
    if banner is not None:
        entry = table.setdefault("linux_banner", {"address": 0, "type": VOID})
        entry["constant_data"] = base64.b64encode(banner).decode()
    return table


def counted(kernel: Kernel) -> list[str]:
    """The variables whose elements can be counted: an excerpt may lack their pages, the whole image has them."""
    names = [name for name, texts in VARIABLES.items() if any("[*]" in text for text in texts)]
    found = [(name, at) for name in names if (at := kernel.symbols.get(name)) is not None]
    _, ok = kernel.space.gather(np.array([at for _, at in found], np.uint64), _MOST_ROOM)
    return [name for (name, _), readable in zip(found, ok.tolist(), strict=True) if readable]


def banner_bytes(kernel: Kernel) -> bytes | None:
    """``linux_banner`` with the NUL that ends it, as it stands in memory; None if it cannot be read."""
    at = kernel.symbols.get("linux_banner")
    if at is None:
        return None
    raw = kernel.strings(np.array([at], np.uint64), _BANNER_LIMIT)[0]
    return None if not raw else raw + b"\0"


def described_variables(types: IsfTypes, described: Btf) -> dict[str, Descriptor]:
    """Types of the variables that BTF describes: per-CPU ones, in kernels so far."""
    found: dict[str, Descriptor] = {}
    words = described.words
    for at in described.starts.tolist():
        if int(words[at + 1]) >> 24 & 0x7F == btf.VAR:
            found[described.string(int(words[at]))] = types.descriptor(int(words[at + 2]))
    return found


def declaration(text: str, types: IsfTypes, content: Callable[[], bytes]) -> Descriptor | None:
    """The type that ``text`` declares (see :mod:`vmaforensics.export.isf.variables`), or None if this kernel has
    no such type. ``content`` gives the bytes of the variable, for a number of elements that is not said."""
    hit = _DECLARATION.fullmatch(text)
    if hit is None:
        raise ValueError(f"{text!r} is no declaration")
    name, rest = hit.groups()
    found: Descriptor | None = FUNCTION if name == "()" else types.named(name)
    if name.startswith("{"):
        found = types.unnamed_with(tuple(part.strip() for part in name[1:-1].split(",")))
    if found is None:
        return None
    for suffix in _SUFFIX.finditer(rest):
        if suffix[0] == "*":
            found = {"kind": "pointer", "subtype": found}
        else:
            count = _elements(content(), types.size(found)) if suffix[1] == "*" else int(suffix[1] or 0)
            found = {"kind": "array", "count": count, "subtype": found}
    return found


def _elements(content: bytes, size: int) -> int:
    """How many elements of ``size`` bytes there are up to the first that is all zero, or to the end."""
    count = len(content) // size if size else 0
    return next((at for at in range(count) if not any(content[at * size : (at + 1) * size])), count)


def _content(kernel: Kernel, name: str, linked_at: int, edges: list[int]) -> bytes:
    """The bytes from a variable to the next symbol; none if unreadable."""
    address = kernel.symbols.get(name)
    after = bisect_right(edges, linked_at)
    if address is None or after >= len(edges):
        return b""
    size = min(edges[after] - linked_at, _MOST_ROOM)
    data, ok = kernel.space.gather(np.array([address], np.uint64), size)
    return data.tobytes() if ok[0] else b""
