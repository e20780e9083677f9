"""The kernel's own copies of the code that it maps into every process (``struct vdso_image``).

Each is an ELF shared object in the kernel's read-only data (``raw_data``, made by arch/x86/entry/vdso/vdso2c.c); the
functions that programs look up in it are its dynamic symbols.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, I64, U64, Bools

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_LARGEST = 64  # pages of an image
_MOST = 128  # symbols of an image
_PIECE = 16  # bytes of a function that are looked at
_FAR = (1 << 63) - 1  # what a symbol says that lies beyond any image
_RAW_DATA = "raw_data"
_DYNAMIC, _SYMTAB, _STRTAB = 2, 6, 5  # PT_DYNAMIC, DT_SYMTAB, DT_STRTAB
_FUNCTION = 2  # STT_FUNC


@table(struct="vdso_image")
class VdsoImages(Table):
    """A row is an image that the kernel has a symbol of."""

    address: U64  # of the vdso_image
    ok: Bools
    data: U64 = member("data")  # where its first page is
    size: U64 = member("size")  # bytes
    own: Bools  # data is what the kernel was built with
    held: Bools  # its pages are in the image that is read
    elf: Bools  # a shared object with dynamic symbols; False too where it is not held


@table()
class VdsoFunctions(Table):
    """A row is a dynamic symbol of an image: a function that programs call."""

    image: I32  # row of VdsoImages
    value: I64  # bytes into the image
    inside: Bools  # lies in the image
    jumps: Bools  # begins with a jump, or what amounts to one
    leads: I64  # where it leads, in bytes into the image; negative if that is not said


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesView:
    """The images, with what is in them."""

    images: VdsoImages
    names: tuple[str, ...]  # of the symbol of each image
    functions: VdsoFunctions
    function_names: tuple[bytes, ...]

    def rows_of(self, addresses: U64) -> I64:
        """Row of the image at each address, -1 for none."""
        hit = addresses[:, None] == self.images.address
        return np.where(hit.any(axis=1), hit.argmax(axis=1) if hit.shape[1] else 0, -1).astype(np.int64)


def read_vdso_images(kernel: Kernel) -> ImagesView:
    """Every image there is a symbol of. Raises :class:`KernelNotFoundError` where the types have no such structure."""
    known = [(name, at) for name in kernel.arch.vdso_symbols.images if (at := kernel.symbols.get(name)) is not None]
    addresses = np.array([at for _, at in known], np.uint64)
    rows, ok = kernel.gather(VdsoImages, addresses)
    rows.address[:], rows.ok[:] = addresses, ok
    built = np.array(kernel.symbols.find(_RAW_DATA), np.uint64)
    # Of a table of symbols that lacks some of them nothing follows.
    rows.own[:] = np.isin(rows.data, built) if len(built) >= len(rows) else True
    functions: list[VdsoFunctions] = []
    names: list[bytes] = []
    for row in range(len(rows)):
        content = _content(kernel, rows, row)
        rows.held[row] = content is not None
        symbols = functions_of(content) if content is not None else []
        rows.elf[row] = bool(symbols)
        functions.append(_table(kernel, row, content or b"", symbols))
        names += [symbol.name for symbol in symbols]
    return ImagesView(
        images=rows,
        names=tuple(name for name, _ in known),
        functions=VdsoFunctions.concatenate(functions) if functions else VdsoFunctions.zeros(0),
        function_names=tuple(names),
    )


def _content(kernel: Kernel, images: VdsoImages, row: int) -> bytes | None:
    """The bytes of an image; None where a page of it is not there."""
    page = kernel.arch.page_size
    count = min(int(images.size[row]) // page, _LARGEST)
    if not images.ok[row] or not count:
        return None
    with np.errstate(over="ignore"):
        pages = images.data[row] + np.arange(count, dtype=np.uint64) * np.uint64(page)
    data, ok = kernel.space.gather(pages, page)
    return data.tobytes() if ok.all() else None


class Symbol(NamedTuple):
    """A function among the dynamic symbols."""

    name: bytes
    value: int  # bytes into the image


class _Form(NamedTuple):
    """Where an ELF file of a class has what: struct formats and offsets."""

    header: int  # offset of e_phoff
    word: str
    entry_size: int  # offset of e_phentsize
    address: int  # offset of p_vaddr
    symbol: str
    order: tuple[int, int, int]  # of st_name, st_info and st_value in it


_FORMS: Final = {
    1: _Form(28, "<I", 42, 8, "<IIIBBH", (0, 3, 1)),
    2: _Form(32, "<Q", 54, 16, "<IBBHQQ", (0, 1, 4)),
}


def functions_of(content: bytes) -> list[Symbol]:
    """The functions among the dynamic symbols of a shared object; none if it is no such object, or out of shape."""
    form = _FORMS.get(content[4]) if content[:4] == b"\x7fELF" else None
    found: list[Symbol] = []
    if form is None:
        return found
    try:
        table, names = _dynamic(content, form)
        size = struct.calcsize(form.symbol)
        for at in range(table, min(names, table + _MOST * size), size):
            fields = struct.unpack_from(form.symbol, content, at)
            name, info, value = (fields[place] for place in form.order)
            if info & 0xF == _FUNCTION and value:
                text = content[names + name : content.index(b"\0", names + name)]
                found.append(Symbol(text[:64], min(value, _FAR)))
    except (struct.error, ValueError, OverflowError):
        return []
    return found


def _dynamic(content: bytes, form: _Form) -> tuple[int, int]:
    """Where the dynamic symbols and their names begin. Raises ``ValueError`` where it is not said."""
    (start,) = struct.unpack_from(form.word, content, form.header)
    size, count = struct.unpack_from("<HH", content, form.entry_size)
    for at in range(start, start + min(count, 64) * size, size or 1):
        (kind,) = struct.unpack_from("<I", content, at)
        if kind != _DYNAMIC:
            continue
        (address,) = struct.unpack_from(form.word, content, at + form.address)
        step, pair = struct.calcsize(form.word), form.word + form.word[-1]
        found: dict[int, int] = {}
        for place in range(address, min(address + 64 * 2 * step, len(content) - 2 * step), 2 * step):
            tag, value = struct.unpack_from(pair, content, place)
            if tag == 0:
                break
            found.setdefault(tag, value)
        if _SYMTAB in found and _STRTAB in found:
            return found[_SYMTAB], found[_STRTAB]
    raise ValueError("no dynamic symbols")


def _table(kernel: Kernel, image: int, content: bytes, symbols: list[Symbol]) -> VdsoFunctions:
    value = np.array([symbol.value for symbol in symbols], np.int64)
    inside = value < len(content)
    padded = np.frombuffer(content + bytes(_PIECE), np.uint8)
    code = padded[np.where(inside, value, 0)[:, None] + np.arange(_PIECE)] if len(padded) > _PIECE else None
    if code is None or not len(value):
        return VdsoFunctions.zeros(0)
    jumps, leads = kernel.arch.first_jumps(code, value)
    return VdsoFunctions.of(
        len(value),
        image=np.full(len(value), image),
        value=value,
        inside=inside,
        jumps=jumps & inside,
        leads=leads,
    )
