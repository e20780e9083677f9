"""An ISF (volatility3's schema 6.2.0) of the kernel in an image, and the files it is kept in."""

from __future__ import annotations

import gzip
import hashlib
import lzma
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import msgspec

from vmaforensics.errors import KernelNotFoundError, UsageError
from vmaforensics.export.isf.symbols import banner_bytes, counted, isf_symbols, linked
from vmaforensics.export.isf.types import IsfTypes
from vmaforensics.kernel.structures.btf import Btf
from vmaforensics.kernel.symbols.kallsyms import Kallsyms
from vmaforensics.version import __version__

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

FORMAT = "6.2.0"
SUFFIXES = (".json.xz", ".json.gz", ".json")
_PRESET = 1  # of xz: about a second; the highest takes ten times that for a file a quarter smaller


class IsfSource(NamedTuple):
    """What an ISF is made of."""

    types: Btf
    symbols: Kallsyms
    kaslr: int  # bytes by which the kernel image was moved


def isf_source(kernel: Kernel) -> IsfSource:
    """What the ISF of ``kernel`` is made of.

    Raises :class:`KernelNotFoundError` where the kernel's types or symbols did not come from itself, or
    where it is not known how far they were moved.
    """
    types, symbols, kaslr = kernel.types, kernel.symbols, kernel.identity.kaslr_offset
    if not isinstance(types, Btf):
        raise KernelNotFoundError(
            f"no ISF can be made: the types are not the kernel's own BTF ({kernel.identity.types_source}); "
            "use the file they came from"
        )
    if types.problem is not None:
        raise KernelNotFoundError(
            f"no ISF can be made: the kernel's BTF is {types.problem}, and another image would be read wrongly "
            "with it; make it of another image of this kernel"
        )
    if not isinstance(symbols, Kallsyms) or not kernel.identity.symbols_source:
        raise KernelNotFoundError(
            "no ISF can be made: the kernel's symbol table (kallsyms) is not in the image; "
            "acquire it again without filtering kernel pages"
        )
    if kaslr is None:
        raise KernelNotFoundError(
            "no ISF can be made: neither VMCOREINFO nor the symbol _text says by how much the kernel was moved"
        )
    return IsfSource(types, symbols, kaslr)


def isf_key(kernel: Kernel) -> str:
    """A hash of all that goes into the ISF of ``kernel``. Raises what :func:`isf_source` raises."""
    types, symbols, kaslr = isf_source(kernel)
    parts = [hashlib.sha256(types.blob).hexdigest(), symbols.sha256(kaslr, kernel.arch.image_start), *counted(kernel)]
    return hashlib.sha256("".join(parts).encode() + (banner_bytes(kernel) or b"")).hexdigest()


def isf_document(kernel: Kernel) -> dict[str, Any]:
    """The ISF of ``kernel`` as plain dictionaries; the same kernel gives the same one.

    Raises what :func:`isf_source` raises.
    """
    described, symbols, kaslr = isf_source(kernel)
    types = IsfTypes(described)
    release = kernel.identity.release
    # The schema knows the kinds dwarf, symtab and system-map; ours are none of them, and a kind may be left out.
    metadata = {
        "format": FORMAT,
        "producer": {"name": "vmaforensics", "version": __version__},
        "linux": {
            "symbols": [_source(f"kallsyms of {release}", symbols.sha256(kaslr, kernel.arch.image_start))],
            "types": [_source(f"BTF of {release}", hashlib.sha256(described.blob).hexdigest())],
        },
    }
    return {
        "metadata": metadata,
        "base_types": types.base_types,
        "user_types": types.user_types,
        "enums": types.enums,
        "symbols": isf_symbols(kernel, linked(symbols, kaslr, kernel.arch.image_start), types, described),
    }


def _source(name: str, sha256: str) -> dict[str, str]:
    return {"name": name, "hash_type": "sha256", "hash_value": sha256}


def suffix_of(name: str) -> str:
    """How a file called ``name`` is packed: one of :data:`SUFFIXES`. Raises :class:`UsageError`."""
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return suffix
    raise UsageError(f"the name {name} does not end in {', '.join(SUFFIXES)}, one of which volatility3 looks for")


def write_isf(document: dict[str, Any], stream: IO[bytes], suffix: str) -> None:
    """Write ``document`` to ``stream``, packed as ``suffix`` says; the same document gives the same bytes."""
    data = msgspec.json.encode(document)
    if suffix == ".json.xz":
        data = lzma.compress(data, preset=_PRESET)
    elif suffix == ".json.gz":
        data = gzip.compress(data, compresslevel=6, mtime=0)
    stream.write(data)
