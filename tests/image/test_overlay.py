from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from vmaforensics.image.overlay import Overlay

from .build import PAGE, ZERO, Kdump, Load, elf, page
from .truth import bytes_of, check, pfns, states

if TYPE_CHECKING:
    from .conftest import Opener

PAGES: dict[int, bytes | None] = {1: page(1), 2: page(2), 3: None, 4: ZERO, 5: ZERO, 6: page(6), 7: page(7)}
FILTERED = set(range(0x3000, 0x4000))


@pytest.fixture
def base(opened: Opener) -> Overlay:
    return Overlay(opened(Kdump(pages=PAGES).build()).memory)


def test_without_changes_it_is_its_base(base: Overlay) -> None:
    check(base, bytes_of(PAGES), FILTERED, 8 * PAGE)
    assert states(base, 9) == states(base.base, 9) == "-ppazzpp-"


def test_writes_are_read_back_everywhere_and_the_base_stays(base: Overlay) -> None:
    held = bytes_of(PAGES)
    for pa, data in (
        (0x1010, b"eight by"),
        (0x1FFE, b"across"),
        (0x4800, b"in a zero page"),
        (0x3100, b"in a hole"),
    ):
        base.write(pa, data)
        held |= {pa + at: octet for at, octet in enumerate(data)}
    check(base, held, FILTERED, 8 * PAGE)
    assert states(base, 9) == "-ppapzpp-"
    check(base.base, bytes_of(PAGES), FILTERED, 8 * PAGE)


def test_later_writes_win(base: Overlay) -> None:
    base.write(0x1000, b"first")
    base.write(0x1002, b"second")
    assert base.read(0x1000, 8) == b"fisecond"


def test_a_hole_written_all_over_is_no_hole(base: Overlay) -> None:
    base.write(0x3000, page(3))
    check(base, bytes_of(PAGES | {3: page(3)}), set(), 8 * PAGE)
    assert states(base, 9) == "-pppzzpp-"


def test_dropped_pages_are_absent(base: Overlay) -> None:
    base.write(0x6000, b"gone again")
    base.drop(np.array([6, 1], np.uint64))
    base.drop(4)
    base.drop(100)  # not RAM, and stays so
    check(base, bytes_of(PAGES | {1: None, 4: None, 6: None}), {*range(0x1000, 0x7000)}, 8 * PAGE)
    assert states(base, 9) == "-apaazap-"
    assert base.page_states(pfns(100)).tolist() == [3]


def test_of_a_page_written_to_after_it_was_dropped_only_that_is_known(base: Overlay) -> None:
    base.drop(6)
    base.write(0x6004, b"known")
    held = bytes_of(PAGES | {6: None}) | {0x6004 + at: octet for at, octet in enumerate(b"known")}
    check(base, held, {*range(0x3000, 0x4000), *range(0x6000, 0x7000)}, 8 * PAGE)


def test_pages_held_in_part_stay_so(opened: Opener) -> None:
    memory = Overlay(opened(elf([Load(pa=0x1800, data=page(1, 0x1000)), Load(pa=0x5000, data=page(2))])).memory)
    held = {0x1800 + at: octet for at, octet in enumerate(page(1, 0x1000))} | bytes_of({5: page(2)})
    memory.write(0x1900, b"edit")
    held |= {0x1900 + at: octet for at, octet in enumerate(b"edit")}
    check(memory, held, set(), 6 * PAGE)
    assert states(memory, 6) == "-pp--p"


def test_what_is_not_ram_cannot_be_written(base: Overlay) -> None:
    with pytest.raises(ValueError, match="not RAM"):
        base.write(0x7FFE, b"over the end")
    assert states(base, 9) == "-ppazzpp-"


def test_overlays_stack(base: Overlay) -> None:
    base.write(0x1000, b"one")
    upper = Overlay(base)
    upper.write(0x1004, b"two")
    upper.drop(2)
    assert upper.read(0x1000, 8)[:3] + upper.read(0x1004, 3) == b"onetwo"
    assert base.read(0x1004, 3) == page(1)[4:7]
    assert states(upper, 9) == "-paazzpp-"


def test_reads_of_an_overlay_are_traced(base: Overlay) -> None:
    base.write(0x1000, b"one")
    base.start_trace()
    base.gather(pfns(0x1000, 0x7000), 8)
    assert base.traced().tolist() == [1, 7]
