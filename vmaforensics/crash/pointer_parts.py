"""Turns what values lead to into parts of the document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.crash.by_hand import lines_for, stack_lines_for
from vmaforensics.crash.pointers_document import (
    FaultPart,
    NearPart,
    PointerPart,
    PointersPart,
    StackWordPart,
)
from vmaforensics.views.stacks.lines import frame_line
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmaforensics.crash.pointers import Pointers
    from vmaforensics.crash.trail.fault import Fault
    from vmaforensics.views.objects.explain import Meaning
    from vmaforensics.views.objects.nearly import Nearly
    from vmaforensics.views.stacks.stacks import StacksView


def pointers_part(pointers: Pointers, view: StacksView) -> PointersPart:
    """Of who died; ``view`` has the frames of the stack words."""
    return PointersPart(
        cpu=pointers.cpu,
        source=pointers.source,
        said=[pointer_part(named.meaning, named.name) for named in pointers.said],
        registers=[pointer_part(named.meaning, named.name) for named in pointers.registers],
        stack=[
            StackWordPart(
                address=hex(word.address), frame=frame_line(view, word.frame), pointer=pointer_part(word.meaning)
            )
            for word in pointers.stack
        ],
        lines=stack_lines_for(pointers.task, pointers.place),
    )


def pointer_part(meaning: Meaning, name: str = "") -> PointerPart:
    """What a value leads to; ``name`` is that of the register, if it has one."""
    return PointerPart(
        name=printable(name),
        value=hex(meaning.value),
        place=meaning.place.label,
        text=meaning.text,
        object=None if meaning.object is None else hex(meaning.object),
        cache=meaning.cache,
        struct=meaning.struct,
        offset=meaning.offset,
        member=meaning.member,
        state=None if meaning.state is None else meaning.state.text,
        detail=meaning.detail,
        odd=meaning.odd,
        lines=lines_for(meaning),
    )


def near_parts(nearly: Iterable[Nearly]) -> list[NearPart]:
    """Objects that a value would lead to with one byte changed."""
    return [NearPart(changed=hex(near.changed), pointer=pointer_part(near.meaning)) for near in nearly]


def fault_part(fault: Fault) -> FaultPart:
    """The address that could not be used."""
    return FaultPart(
        address=hex(fault.address),
        text=fault.meaning.text,
        register=fault.register,
        displacement=fault.displacement,
        exact=fault.exact,
        pointer=None if fault.pointer is None else pointer_part(fault.pointer),
        nearly=near_parts(fault.nearly),
    )
