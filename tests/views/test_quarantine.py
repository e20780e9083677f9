"""Objects that KASAN holds back: freed by its shadow, which is laid out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import BASE, PAGE

from views.test_free_objects import COUNT, SIZE, STRUCTS, Hand
from vmaforensics.kernel.space.kernel_space import KernelSpace, LinearPiece
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.slab.free_objects import FreeObjects, free_objects

WITH_KASAN = STRUCTS | {
    "kasan_cache": "alloc_meta_offset:i32 free_meta_offset:i32",
    "kmem_cache": "kasan_info:kasan_cache",
}


def shadow_place(address: int) -> int:
    """kasan_mem_to_shadow with KASAN_SHADOW_OFFSET of x86-64 (Documentation/dev-tools/kasan.rst)."""
    return (address >> 3) + 0xDFFFFC0000000000


class Guarded(Hand):
    """The same two slabs, and a page of shadow for them: every object may be used."""

    def __init__(self, structs: dict[str, str] = WITH_KASAN) -> None:
        super().__init__(structs)
        self.shadow = self.machine.room(PAGE, PAGE)
        self.first = shadow_place(self.slabs[0]) // PAGE * PAGE

    def say(self, slab: int, number: int, value: int) -> None:
        """Write the shadow of all of an object."""
        at = shadow_place(self.object(slab, number)) - self.first
        self.machine.write(self.shadow + at, bytes([value]) * (SIZE // 8))

    def found(self) -> FreeObjects:
        kernel = self.machine.kernel()
        memory = kernel.memory
        end = int(memory.ranges[0, 1])
        pieces = [
            LinearPiece(BASE, BASE + end - 1, 0),
            LinearPiece(self.first, self.first + PAGE - 1, self.shadow - BASE),
        ]
        kernel.space = KernelSpace.linear(memory, sorted(pieces))
        log = ProblemLog()
        found = free_objects(kernel, self.layout(), log)
        assert not len(log.table())
        return found


# KASAN_SLAB_FREE, KASAN_SLAB_FREE_META; KASAN_SLAB_REDZONE of an object of a new slab that nobody has been given.
@pytest.mark.parametrize("freed", [0xFB, 0xFA, 0xFC])
def test_what_kasan_holds_back_is_free_though_on_no_list(freed: int) -> None:
    hand = Guarded()
    hand.chain(0, 2)
    hand.say(0, 2, freed)
    hand.say(0, 1, freed)
    hand.say(1, 0, 0x04)  # the first half of each eight bytes may be used
    found = hand.found()
    assert np.flatnonzero(found.free).tolist() == [1, 2]
    assert not found.doubtful.any()


def test_where_the_shadow_is_not_in_the_image_there_is_doubt() -> None:
    hand = Guarded()
    hand.machine.drop(hand.shadow)
    found = hand.found()
    assert not found.free.any()
    assert found.doubtful.tolist() == [True, True]


def test_a_kernel_without_kasan_has_no_shadow() -> None:
    hand = Guarded(STRUCTS | {"kmem_cache": "size:u32"})
    hand.say(0, 1, 0xFB)
    assert np.flatnonzero(hand.found().free).tolist() == []
    assert hand.layout().count == 2 * COUNT
