"""Lines to look at an address by hand, each under the name of the tool it is for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.views.objects.places import Place
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from vmaforensics.crash.trace import TraceFrame
    from vmaforensics.views.objects.explain import Meaning


def stack_lines_for(task: int | None, place: TraceFrame | None) -> list[str]:
    """Commands that show the stack of a ``task_struct`` with what its words are, and the instruction it was at."""
    lines = []
    if task is not None:
        lines += [
            f"crash: bt -FF {task:x}",
            f'drgn: prog.stack_trace(Object(prog, "struct task_struct *", {task:#x}))',
        ]
    if place is not None:
        where = f"{printable(place.name)}+{place.offset:#x}"
        lines += [f"crash: dis -r ({where})", f"gdb: x/i {where}"]
    return lines


def lines_for(meaning: Meaning) -> list[str]:
    """Commands for crash, drgn, gdb and volatility3's volshell that show what a value leads to."""
    value = f"{meaning.value:#x}"
    if meaning.struct is not None and meaning.object is not None:
        at = f"{meaning.object:#x}"
        return struct_lines(meaning.struct, at) + (
            [f"crash: kmem -s {at}"] if meaning.place == Place.OBJECT else [f"crash: kmem -p {at}"]
        )
    if meaning.place in (Place.OBJECT, Place.SLAB):
        return [f"crash: kmem -s {value}", f"drgn: slab_object_info({value})"]
    if meaning.place in (Place.SYMBOL, Place.MODULE):
        return [f"crash: sym {value}", f"drgn: prog.symbol({value})", f"gdb: info symbol {value}"]
    if meaning.place == Place.USER:
        return [f"crash: vtop -u {value}", f"drgn: identify_address({value})"]
    if meaning.place in (Place.STACK, Place.PER_CPU, Place.FRAME, Place.AREA, Place.MAPPED):
        return [f"crash: kmem {value}", f"crash: rd {value} 8", f"drgn: identify_address({value})"]
    return []


def struct_lines(struct: str, at: str) -> list[str]:
    """Commands that show the structure at an address."""
    return [
        f"crash: struct {struct} {at}",
        f'drgn: Object(prog, "struct {struct}", address={at})',
        f"gdb: p *(struct {struct} *){at}",
        f'volshell: dt("{struct}", {at})',
    ]
