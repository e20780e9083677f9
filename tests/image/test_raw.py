from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.image.memory import PageState
from vmaforensics.image.open import open_image

from .build import page
from .truth import check, pfns, states

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Opener

MIB = 1 << 20


def test_offsets_are_addresses(opened: Opener) -> None:
    data = bytes(MIB - 8192) + page(1) + page(2)
    image = opened(data)
    assert image.memory.read(MIB - 4100, 8) == data[-4100:-4092]
    assert image.memory.read(0, MIB) == data
    assert image.problems == ()
    assert states(image.memory, 258)[-4:] == "pp--"


def test_a_tail_that_is_no_whole_page_is_held_to_its_last_byte(opened: Opener) -> None:
    data = page(1) * 257 + b"tail"
    image = opened(data)
    held = dict(enumerate(data))
    check(image.memory, held, set(), len(data))
    assert image.memory.page_states(pfns(257)) == PageState.PRESENT
    assert "not a multiple of 4096" in image.problems[0]


def test_a_large_vmem_file_is_said_to_lack_the_hole(tmp_path: Path) -> None:
    path = tmp_path / "guest.vmem"
    with path.open("wb") as stream:
        stream.truncate((3 << 30) + (1 << 20))
    assert "PCI hole" in open_image(path).problems[0]
