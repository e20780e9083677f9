"""Code of the kernel: where it lies, and which function an address is in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import covering_rows, distinct, values_at
from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.texts import Texts
from vmaforensics.columns.types import I32, I64, U64, Bools
from vmaforensics.views.stacks.modules import Part, module_init_text, module_symbols, module_text
from vmaforensics.views.stacks.programs import read_programs
from vmaforensics.views.system.modules import read_modules

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.stacks.programs import Programs
    from vmaforensics.views.system.modules import Modules

_BPF = -2  # among the owners of code


@table()
class Ranges(Table):
    """Where code lies; sorted by start."""

    start: U64
    end: U64  # behind the last byte
    owner: I32  # row of the modules; -1: the kernel image; -2: compiled BPF
    program: I32 = column(fill=-1)  # of compiled BPF, its row there


@table()
class Functions(Table):
    """Functions that some addresses lie in; a row for each."""

    start: U64  # address of its symbol
    size: U64  # bytes up to the next symbol
    module: I32  # row of the modules; -1: of the kernel itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """Which function each of some addresses lies in."""

    functions: Functions
    names: Texts  # of each function; as the image has them
    row: I32  # of each address, -1 for none known


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """The code of a kernel: see :func:`read_code`."""

    modules: Modules
    text: Part  # of each module
    programs: Programs
    ranges: Ranges

    def holds(self, addresses: U64) -> Bools:
        """Which addresses lie in code of the kernel, a module or a BPF program."""
        inside: Bools = self._rows(addresses) >= 0
        return inside

    def _rows(self, addresses: U64) -> I64:
        return covering_rows(self.ranges.start, self.ranges.end, addresses)

    def name(self, kernel: Kernel, addresses: U64) -> Named:
        """The function of each address; none for what is not code, or if its symbols are not in the image."""
        places, which = np.unique(addresses, return_inverse=True)
        ranges = self._rows(places)
        owner = values_at(self.ranges.owner, ranges, -3)
        row = np.full(len(places), -1, np.int32)
        functions, names = [Functions.zeros(0)], list[bytes]()
        for number in distinct(owner[ranges >= 0]).tolist():
            rows = np.flatnonzero((ranges >= 0) & (owner == number))
            if number == _BPF:
                found, its_names, place = self._programs(ranges[rows])
            else:
                found, its_names, place = self._symbols(kernel, number, places[rows])
            row[rows] = np.where(place >= 0, place + len(names), -1)
            functions.append(found)
            names += its_names
        return Named(functions=Functions.concatenate(functions), names=Texts.of(names), row=row[which.reshape(-1)])

    def _symbols(self, kernel: Kernel, owner: int, addresses: U64) -> _Found:
        """The functions of the kernel image, or of a module, that hold ``addresses``."""
        symbols = kernel.symbols.by_address() if owner < 0 else module_symbols(kernel, int(self.modules.module[owner]))
        nearest = symbols.nearest(addresses)
        known = np.flatnonzero(nearest.row >= 0)
        first, place = _distinct(nearest.row[known], len(addresses), known)
        at = known[first]
        # The last symbol of a module ends where its code does.
        ends = np.minimum(nearest.end[at], values_at(self.ranges.end, self._rows(addresses[at])))
        owners = np.full(len(at), owner, np.int32)
        functions = Functions(start=nearest.start[at], size=ends - nearest.start[at], module=owners)
        return _Found(
            functions, [symbols.name(row).encode("utf-8", "replace") for row in nearest.row[at].tolist()], place
        )

    def _programs(self, ranges: I64) -> _Found:
        """The same of compiled BPF, by the rows of its ranges."""
        first, place = _distinct(ranges, len(ranges), np.arange(len(ranges)))
        at = self.ranges.take(ranges[first])
        functions = Functions(start=at.start, size=at.end - at.start, module=np.full(len(at), -1, np.int32))
        names = [self.programs.name[row].tobytes().split(b"\0", 1)[0] for row in at.program.tolist()]
        return _Found(functions, names, place)


class _Found(NamedTuple):
    """Functions, their names, and which of them holds each of some addresses (-1: none)."""

    functions: Functions
    names: list[bytes]
    place: I64


def _distinct(values: I64, count: int, rows: I64) -> tuple[I64, I64]:
    """(where each distinct value occurs first, which of the distinct values each of ``count`` rows has; -1: none).

    ``values`` belong to ``rows`` of those.
    """
    _, first, which = np.unique(values, return_index=True, return_inverse=True)
    place = np.full(count, -1, np.int64)
    place[rows] = which.reshape(-1)
    return first.astype(np.int64), place


def read_code(kernel: Kernel) -> Code:
    """Where the code of the kernel, of its modules and of compiled BPF lies."""
    modules, programs = read_modules(kernel).modules, read_programs(kernel).programs
    known = np.arange(len(modules), dtype=np.int32)
    text = module_text(kernel, modules.module)
    parts = [
        _image(kernel),
        _ranges(text, known),
        _ranges(module_init_text(kernel, modules.module), known),
    ]
    bpf = _ranges(Part(programs.start, programs.end), np.full(len(programs), _BPF, np.int32))
    bpf.program[:] = np.flatnonzero(programs.start < programs.end)
    ranges = Ranges.concatenate([*parts, bpf])
    return Code(modules=modules, text=text, programs=programs, ranges=ranges.sort_by(ranges.start))


def _ranges(part: Part, owner: I32) -> Ranges:
    """Rows of the ranges that are some."""
    some = part.start < part.end
    return Ranges.of(start=part.start[some], end=part.end[some], owner=owner[some])


def _image(kernel: Kernel) -> Ranges:
    """Code of the kernel image: all of it may be, if symbols do not say."""
    get = kernel.symbols.get
    bounds = [(get("_stext"), get("_etext")), (get("_sinittext"), get("_einittext"))]
    found = [(start, end) for start, end in bounds if start is not None and end is not None and start < end]
    if not found:
        found = [(kernel.arch.image_start, kernel.arch.image_start + kernel.arch.image_size)]
    return Ranges.of(start=[start for start, _ in found], end=[end for _, end in found], owner=[-1] * len(found))
