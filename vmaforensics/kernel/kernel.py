"""The kernel of an image: who it is, and how its structures are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from vmaforensics.arch.known import DEFAULT
from vmaforensics.columns.lookup import distinct
from vmaforensics.columns.table import Table, columns_of
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.kernel.structures.btf import Btf
from vmaforensics.kernel.structures.layout import Field, member

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from vmaforensics.arch.interface import Architecture
    from vmaforensics.columns.types import I64, U64, Bools
    from vmaforensics.image.memory import PhysicalMemory
    from vmaforensics.kernel.space.kernel_space import KernelSpace
    from vmaforensics.kernel.structures.layout import Types
    from vmaforensics.kernel.symbols.by_address import ByAddress
    from vmaforensics.kernel.symbols.vmcoreinfo import Vmcoreinfo

T = TypeVar("T")
TableT = TypeVar("TableT", bound=Table)
_BATCH = 1 << 15  # structures read at once: what a batch takes beside its columns stays small
_LARGEST = 1 << 24  # bytes of a structure: of those that are read, pglist_data is the largest, with some hundred KiB
_CLUSTER_GAP = 512  # bytes between members beyond which they are read apart


class Symbols(Protocol):
    """A source of symbol addresses."""

    @property
    def every_function(self) -> bool:
        """Whether every function is listed, a name that several share once for each."""
        ...

    def get(self, name: str) -> int | None:
        """Address of the first symbol called ``name``."""
        ...

    def find(self, name: str) -> list[int]:
        """Addresses of every symbol called ``name``."""
        ...

    def name_of(self, address: int) -> str | None:
        """Name of a symbol at exactly ``address``."""
        ...

    def by_address(self) -> ByAddress:
        """The symbols in the order of addresses."""
        ...

    def __len__(self) -> int: ...


@dataclass(slots=True, kw_only=True)
class Identity:
    """What the kernel says of itself and how the image was understood; every field is for people."""

    release: str
    banner: str
    build_id: str | None
    levels: int  # of page tables: 4 or 5
    isolation: bool | None  # None: not known
    kaslr_offset: int | None
    phys_base: int
    vmcoreinfo_source: str | None
    symbols_source: str
    types_source: str
    translation_source: str
    problems: list[str] = field(default_factory=list)


class Kernel:
    """Structures of one kernel, read by member name out of one image."""

    def __init__(
        self,
        *,
        memory: PhysicalMemory,
        space: KernelSpace,
        symbols: Symbols,
        types: Types,
        identity: Identity,
        vmcoreinfo: Vmcoreinfo | None,
        arch: Architecture = DEFAULT,
        regions: Mapping[str, int] | None = None,
    ) -> None:
        self.memory = memory
        self.space = space
        self.symbols = symbols
        self.types = types
        self.identity = identity
        self.vmcoreinfo = vmcoreinfo
        self.arch = arch  # bound to this kernel
        self.root: int | None = None  # physical address of page tables that map the kernel; None: none could be used
        # Members that had to be there and are not, for types are damaged: what was read of them is a table's fill.
        self.untyped: dict[str, None] = {}
        self._regions = regions or {}  # variables that are lost, by what was found out otherwise
        self._shared: dict[Callable[[Kernel], Any], Any] = {}
        self._members: dict[tuple[str, str], Field | None] = {}  # what was asked for so far

    def shared(self, make: Callable[[Kernel], T]) -> T:
        """``make(self)``, made once: what many readers of this kernel ask, and learn more of as they go."""
        if make not in self._shared:
            self._shared[make] = make(self)
        made: T = self._shared[make]
        return made

    def forget(self) -> None:
        """Let go of what was shared, all of it: this kernel reads from another memory now, or knows other types."""
        self._shared = {}
        self._members = {}
        self.untyped = {}

    # Types -----------------------------------------------------------------------------------------

    @property
    def types_damaged(self) -> bool:
        """Whether a member may be missing because the record of its type is damaged."""
        return isinstance(self.types, Btf) and self.types.problem is not None

    def has(self, struct: str, path: str) -> bool:
        """Does this kernel's ``struct`` have the member ``path``, or one of ``a|b``? Dots lead into embedded ones."""
        return self._member(struct, path) is not None

    def knows(self, struct: str, path: str) -> bool:
        """As :meth:`has`, of a member that every kernel has: where damaged types do not, :attr:`untyped` has it."""
        if not self.has(struct, path) and self.types_damaged:
            self.untyped[f"{struct}.{path}"] = None
        return self.has(struct, path)

    def member(self, struct: str, path: str) -> Field:
        """The member ``path`` of ``struct``; ``a|b`` takes the first that exists.

        Raises :class:`KernelNotFoundError` when there is none: the types are not those of a kernel we know.
        """
        found = self._member(struct, path)
        if found is None:
            raise KernelNotFoundError(
                f"the kernel's type information has no {' or '.join(path.split('|'))} in struct {struct}"
            )
        return found

    def offset(self, struct: str, path: str) -> int:
        """Byte offset of :meth:`member`."""
        return self.member(struct, path).offset

    def sizeof(self, struct: str) -> int:
        """Bytes of ``struct``. Raises :class:`KernelNotFoundError` if the kernel has none of that name and a size that
        a structure can have."""
        layout = self.types.struct(struct)
        if layout is None or not 0 < layout.size <= _LARGEST:
            raise KernelNotFoundError(f"the kernel's type information has no struct {struct}")
        return layout.size

    def _member(self, struct: str, path: str) -> Field | None:
        if (struct, path) not in self._members:
            found = (member(self.types, struct, spelling) for spelling in path.split("|"))
            self._members[struct, path] = next((field for field in found if field is not None), None)
        return self._members[struct, path]

    # Reading ---------------------------------------------------------------------------------------

    def gather(self, struct: type[TableT], addresses: U64) -> tuple[TableT, Bools]:
        """Read the structures at ``addresses`` into the columns of a table.

        ``struct`` is a class of :mod:`vmaforensics.columns.table`: it names the structure and the member of each
        column. Returns ``(rows, ok)``, both as long as ``addresses``: a column has integers by size and sign
        (bit fields as their value), wide columns arrays; columns without a member, members that this kernel
        does not have, and rows that are not ``ok`` hold the column's ``fill``.
        Raises :class:`KernelNotFoundError` for a member that has to be there and is not, unless types of the kernel
        are known to be damaged: then :attr:`untyped` has it.

        >>> vmas, ok = kernel.gather(Vmas, addresses)
        """
        found = {
            name: self._member_of(struct.struct, known.path, wide=known.wide or np.dtype(known.dtype).kind == "S")
            for name, known in columns_of(struct).items()
            if known.path
        }
        wanted = [(name, at) for name, at in found.items() if at is not None]
        columns: dict[str, NDArray[Any]] = {}
        for name, known in columns_of(struct).items():
            at = found.get(name)
            width = at.dtype.shape[0] if at is not None and at.dtype.shape else 0
            shape = (len(addresses), width) if known.wide else (len(addresses),)
            columns[name] = np.full(shape, known.fill, known.dtype) if known.fill else np.zeros(shape, known.dtype)
        ok = np.ones(len(addresses), np.bool_)
        for low in range(0, len(addresses), _BATCH):
            part = slice(low, low + _BATCH)
            self._read_batch(
                wanted, addresses[part], {name: values[part] for name, values in columns.items()}, ok[part]
            )
        for name, known in columns_of(struct).items():
            columns[name][~ok] = known.fill
        return struct(**columns), ok

    def gather_member(self, struct: str, path: str, addresses: U64) -> tuple[U64, Bools]:
        """One unsigned member of the structures at ``addresses``: (its values, which could be read).

        ``path`` as of :func:`~vmaforensics.columns.table.member`; 0 where not read or where this kernel has none.
        Raises :class:`KernelNotFoundError` as :meth:`gather` does.
        """
        found = self._member_of(struct, path)
        values, ok = np.zeros(len(addresses), np.uint64), np.ones(len(addresses), np.bool_)
        if found is not None:
            self._read_batch([("", found)], addresses, {"": values}, ok)
        values[~ok] = 0
        return values, ok

    def gather_signed(self, struct: str, path: str, addresses: U64) -> tuple[I64, Bools]:
        """As :meth:`gather_member`, of a signed member."""
        found = self._member_of(struct, path)
        values, ok = np.zeros(len(addresses), np.int64), np.ones(len(addresses), np.bool_)
        if found is not None:
            self._read_batch([("", found)], addresses, {"": values}, ok)
        values[~ok] = 0
        return values, ok

    def _member_of(self, struct: str, path: str, *, wide: bool = False) -> Field | None:
        """The member at ``path``; None for a path that may be missing (``?``) and is, and for damaged ones.

        A damaged type makes an array of a number, or a number of an array: that is not the member either.
        """
        found = self._member(struct, path.removesuffix("?"))
        if found is not None and bool(found.dtype.shape) == wide:
            return found
        if path.endswith("?"):
            return None
        if not self.types_damaged:
            return self.member(struct, path)
        self.untyped[f"{struct}.{path}"] = None
        return None

    def _read_batch(
        self, wanted: list[tuple[str, Field]], addresses: U64, columns: dict[str, NDArray[Any]], ok: Bools
    ) -> None:
        """Read members at ``addresses`` into the ``columns`` of their names; clear ``ok`` where one is unreadable."""
        for cluster in _clusters(wanted):
            low = min(field.offset for _, field in cluster)
            high = max(field.offset + field.extent for _, field in cluster)
            with np.errstate(over="ignore"):
                data, readable = self.space.gather(addresses + np.uint64(low), high - low)
            ok &= readable
            for name, found in cluster:
                raw = np.ascontiguousarray(data[:, found.offset - low : found.offset - low + found.extent])
                into = columns[name]
                if into.dtype.kind == "S":
                    into[:] = raw.view(f"S{found.extent}")[:, 0]
                    continue
                values = raw.view(found.dtype.base).reshape((len(addresses), *found.dtype.shape))
                if found.bit_size:
                    values = (values >> found.bit_offset) & ((1 << found.bit_size) - 1)
                into[...] = values.astype(into.dtype)

    def words(self, addresses: NDArray[np.uint64], count: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Read ``count`` 64-bit words at each address: shape ``(n, count)`` uint64, and which rows are ok."""
        data, ok = self.space.gather(addresses, 8 * count)
        return data.view("<u8").reshape(-1, count), ok

    def strings(self, addresses: NDArray[np.uint64], limit: int = 256) -> list[bytes | None]:
        """NUL-terminated strings of at most ``limit`` bytes; None where unreadable.

        A string near the end of a mapped page is read up to there.
        """
        out: list[bytes | None] = [None] * len(addresses)
        left = np.arange(len(addresses))
        size = 32
        while len(left):
            data, ok = self.space.gather(addresses[left], size)
            short = np.flatnonzero(~ok)
            if len(short):  # perhaps only because the page ends here
                page = self.memory.page_size
                room = page - (addresses[left[short]] % np.uint64(page)).astype(np.int64)
                for piece in distinct(room[room < size]).tolist():
                    rows = short[room == piece]
                    data[rows, :piece], ok[rows] = self.space.gather(addresses[left[rows]], piece)
            nul = (data == 0).any(axis=1)
            done = ok & (nul | (size >= limit))
            ends = np.where(nul, (data == 0).argmax(axis=1), size)
            for row in np.flatnonzero(done).tolist():
                out[int(left[row])] = data[row, : min(int(ends[row]), limit)].tobytes()
            left = left[ok & ~done]
            size *= 4
        return out

    def variable(self, name: str, size: int) -> int | None:
        """The unsigned variable of ``size`` bytes with the symbol ``name``; None if it is not there or not readable.

        Where the kernel's maps of memory begin is known even if the variable is lost: see ``kernel/lost_regions.py``.
        """
        if name in self._regions:
            return self._regions[name]
        at = self.symbols.get(name)
        return None if at is None else unsigned_at(self.space, at, size)

    def u64(self, address: int) -> int:
        """The 64-bit word at a kernel address. Raises ``MemoryReadError``."""
        return int.from_bytes(self.space.read(address, 8), "little")


def unsigned_at(space: KernelSpace, address: int, size: int) -> int | None:
    """The unsigned little-endian number in ``size`` bytes at a kernel address; None if they cannot be read."""
    data, ok = space.gather(np.array([address], np.uint64), size)
    return int.from_bytes(data[0].tobytes(), "little") if ok[0] else None


def _clusters(wanted: list[tuple[str, Field]]) -> list[list[tuple[str, Field]]]:
    """Members near each other are read together; a far one is worth a read of its own."""
    groups: list[list[tuple[str, Field]]] = []
    end = 0
    for item in sorted(wanted, key=lambda pair: pair[1].offset):
        field = item[1]
        if groups and field.offset - end <= _CLUSTER_GAP:
            groups[-1].append(item)
        else:
            groups.append([item])
        end = max(end if len(groups[-1]) > 1 else 0, field.offset + field.extent)
    return groups
