"""Types out of debugging information, each looked for once: later runs have them out of the cache.

Looking one structure up takes a good part of a second in the DWARF of a distribution's kernel, and an analysis asks for
hundreds. The key of what is kept is a hash of all the sections that it was read from.
"""

from __future__ import annotations

import time
from dataclasses import astuple, fields
from typing import TYPE_CHECKING, Any, Protocol

from vmaforensics import cache
from vmaforensics.kernel.structures.layout import Field, Layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.progress import Progress

_KIND = "types"
_PATIENCE = 1.0  # seconds of looking up that a killed run may lose
_LARGEST = 1 << 48  # no number of a layout is that large
_NOTHING = type(None)
# Of each member of Field, in order.
_KINDS = ((int,), (int,), (int, _NOTHING), (bool,), (int,), (int,), (str, _NOTHING), (bool,))


class SizedTypes(Protocol):
    """A :class:`~vmaforensics.kernel.structures.layout.Types` of known size."""

    def struct(self, name: str) -> Layout | None: ...

    def constant(self, name: str) -> int | None: ...

    def __len__(self) -> int: ...


class KeptTypes:
    """The types that ``read`` gives, which is called as soon as something is asked for that the cache does not have.

    ``key`` is a hash of what they are read from. ``progress`` hears of each that has to be looked for.
    """

    def __init__(self, key: str, read: Callable[[], SizedTypes], progress: Progress) -> None:
        self._key, self._read, self._progress = key, read, progress
        self._types: SizedTypes | None = None
        self._structs: dict[str, Layout | None] = {}
        self._constants: dict[str, int | None] = {}
        self._lost = 0.0  # seconds of looking up that are not kept yet
        known = _known(cache.load(_KIND, key))
        if known is None:
            self._count = len(self._opened())
        else:
            self._count, self._structs, self._constants = known

    def __len__(self) -> int:
        """As that of the types themselves."""
        return self._count

    def struct(self, name: str) -> Layout | None:
        """The layout of a structure or union."""
        if name not in self._structs:
            begun = self._begin()
            self._structs[name] = self._opened().struct(name)
            self._end(begun)
        return self._structs[name]

    def constant(self, name: str) -> int | None:
        """The value of enumerator ``name``."""
        if name not in self._constants:
            begun = self._begin()
            self._constants[name] = self._opened().constant(name)
            self._end(begun)
        return self._constants[name]

    def _opened(self) -> SizedTypes:
        if self._types is None:
            self._types = self._read()
        return self._types

    def _begin(self) -> float:
        self._progress("types")
        return time.monotonic()

    def _end(self, begun: float) -> None:
        self._lost += time.monotonic() - begun
        if self._lost >= _PATIENCE:
            self.keep()

    def keep(self) -> None:
        """Have later runs know what is known by now."""
        structs = {name: None if found is None else _saved(found) for name, found in self._structs.items()}
        cache.keep(_KIND, self._key, {"count": self._count, "structs": structs, "constants": self._constants})
        self._lost = 0.0


def _saved(layout: Layout) -> list[Any]:
    return [layout.size, {name: list(astuple(found)) for name, found in layout.fields.items()}]


def _known(content: dict[str, Any] | None) -> tuple[int, dict[str, Layout | None], dict[str, int | None]] | None:
    """What an entry says; None for one that no run can have written."""
    try:
        if content is None:
            return None
        structs = {
            name: None if found is None else Layout(name=name, size=_number(found[0]), fields=_members(found[1]))
            for name, found in content["structs"].items()
        }
        constants = {
            name: None if value is None else _number(value, signed=True) for name, value in content["constants"].items()
        }
        return _number(content["count"]), structs, constants
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return None


def _members(saved: dict[str, list[Any]]) -> dict[str, Field]:
    names = [known.name for known in fields(Field)]
    found = {}
    for name, values in saved.items():
        for value, kinds in zip(values, _KINDS, strict=True):
            if type(value) not in kinds:
                raise ValueError(f"{value!r} is none of {kinds}")
            if type(value) is int:
                _number(value)
        found[name] = Field(**dict(zip(names, values, strict=True)))
    return found


def _number(value: object, *, signed: bool = False) -> int:
    """``value`` if it is a number that can be there. Raises ``ValueError``."""
    if type(value) is not int or not (-(1 << 63) if signed else 0) <= value < (1 << 64 if signed else _LARGEST):
        raise ValueError(f"{value!r} is no number that can be there")
    return value
