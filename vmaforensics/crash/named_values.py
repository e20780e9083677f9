"""Values that have a name, as registers do, and what they lead to."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vmaforensics.arch.interface import Architecture
    from vmaforensics.views.objects.explain import Meaning


class NamedValue(NamedTuple):
    """A value that has a name: a register, several with the same value, or a word of a complaint."""

    name: str
    meaning: Meaning


def address_registers(arch: Architecture, registers: Mapping[str, int]) -> dict[str, int]:
    """Those of ``registers`` that code works on: flags, segments and the like are left out."""
    return {name: value for name, value in registers.items() if name.upper() not in arch.state_registers}


def grouped(named: Mapping[str, int], meanings: Iterable[Meaning]) -> list[NamedValue]:
    """What registers lead to; those with the same value together, numbers left out."""
    names: dict[int, list[str]] = {}
    for name, value in named.items():
        names.setdefault(value, []).append(name)
    told = {meaning.value: meaning for meaning in meanings if meaning.text}
    return [NamedValue(", ".join(names[value]), meaning) for value, meaning in told.items()]
