"""Files in memory made by hand, and who keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.views.descriptors.content import Content
from vmaforensics.views.descriptors.descriptors import Descriptors
from vmaforensics.views.descriptors.handles import HandlesView
from vmaforensics.views.descriptors.keepers import KeptFiles
from vmaforensics.views.descriptors.memory_files import MemoryFiles
from vmaforensics.views.descriptors.sysv import Segments

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

INODE, MAPPING = 0xFFFF_8880_B000_0000, 0xFFFF_8880_B000_0200  # of the file that no VMA maps


def add_handles(views: Views, *, segments: Segments | None = None, content: Content = Content.ELF) -> HandlesView:
    """Give ``views`` one file in memory, a memfd of a page that nothing maps, and ``segments``."""
    views.handles = HandlesView(
        descriptors=Descriptors.zeros(0),
        kept=KeptFiles.zeros(0),
        memory_files=MemoryFiles.of(
            1,
            inode=[INODE],
            mapping=[MAPPING],
            internal=[True],
            size=[4096],
            pages=[1],
            pa=[0x7000],
            content=[content],
        ),
        names=[b"memfd:x"],
        segments=segments if segments is not None else Segments.zeros(0),
        whole=True,
        kept_whole=True,
    )
    return views.handles
