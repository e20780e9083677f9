"""Types out of a file with BTF alone: a copy of /sys/kernel/btf/vmlinux, or one of BTFHub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vmaforensics.errors import KernelNotFoundError, SymbolFileError
from vmaforensics.kernel.structures.btf import Btf
from vmaforensics.kernel.symbols.by_name import NamedSymbols
from vmaforensics.kernel.symbols.unpacked import unpacked

if TYPE_CHECKING:
    import os

    from vmaforensics.kernel.structures.layout import Layout


class BtfFile:
    """The types of a kernel. It has no symbols, and does not say which build it is of.

    Raises :class:`SymbolFileError` for a file that cannot be read, is damaged, or has no kernel's types.
    """

    banner: bytes | None = None
    build_id: str | None = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._types = btf_types(self.path, unpacked(self.path))

    def __len__(self) -> int:
        return len(self._types)

    def struct(self, name: str) -> Layout | None:
        """The layout of a structure or union."""
        return self._types.struct(name)

    def constant(self, name: str) -> int | None:
        """The value of enumerator ``name``."""
        return self._types.constant(name)

    def address(self, name: str) -> int | None:
        """None: there are no symbols in it."""
        return None

    def symbols(self, moved: int, image_start: int) -> NamedSymbols:
        """None at all."""
        return NamedSymbols(())


def btf_types(path: Path, blob: bytes) -> Btf:
    """The types in ``blob``, which is BTF of the file at ``path``. Raises :class:`SymbolFileError`."""
    try:
        types = Btf(blob)
    except KernelNotFoundError as error:
        raise SymbolFileError(f"{path} cannot be used: {error}; copy it again") from None
    if types.problem is None and types.struct("task_struct") is None:
        raise SymbolFileError(
            f"the BTF of {path} has no struct task_struct: it is not that of a whole kernel (a module's, or a part of "
            "one made for a BPF program); give that of vmlinux"
        )
    if types.problem is not None:
        raise SymbolFileError(f"the BTF of {path} is {types.problem}; copy it again")
    return types
