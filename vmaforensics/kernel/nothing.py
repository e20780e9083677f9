"""What to say of an image in which no kernel is found."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vmaforensics.arch.machines import OTHER_MACHINES, refusal
from vmaforensics.image.formats.segments import PHYSICAL_LIMIT
from vmaforensics.image.placed import PageState
from vmaforensics.words.amounts import amount

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmaforensics.arch.interface import Architecture
    from vmaforensics.image.image import Image
    from vmaforensics.kernel.symbols.vmcoreinfo import Vmcoreinfo

_SMALLEST = 8  # MiB; a kernel and its types alone take more
_WHOLE = 0.9  # of RAM: less, and what is missing explains more than what is there
_FIRST_MIB = 1 << 20
_STRICT = " (/dev/mem gives no more than the first MiB: use /proc/kcore, AVML or LiME)"
# The compiler that a banner names, where it is one that builds for another machine
_COMPILED_FOR = re.compile(rf"\b({'|'.join(sorted({*OTHER_MACHINES, 'arm', 'powerpc64le'}))})-[\w-]*gcc")


def half_way(image: Image) -> str:
    """How much of its memory an image holds, where that explains what is not found in it; else an empty string."""
    counts = image.memory.frame_counts()
    mib = (1 << 20) // image.memory.page_size
    held, total = int(counts[: PageState.ABSENT].sum()) / mib, int(counts.sum()) / mib
    if held < total * _WHOLE:
        return f"holds {held:,.1f} of the {total:,.0f} MiB that its headers promise"
    few = held < _SMALLEST and image.format != "raw"  # of a file without headers nothing says that it is memory
    return f"holds {held:,.1f} MiB of memory, less than any machine has" if few else ""


def nothing_found(image: Image, arch: Architecture, infos: Iterable[Vmcoreinfo], banner: str | None) -> str:
    """The sentence for an image without a kernel that could be understood, with the ``infos`` and the ``banner`` that
    are in it."""
    end = int(image.memory.ranges[-1, 1]) if len(image.memory.ranges) else 0
    for info in infos:
        offset, stext = arch.image_offset(info.number), info.symbol("_stext")
        if offset is not None and stext is not None and end <= stext - offset < PHYSICAL_LIMIT:
            return (
                f"{image.path} ends before its kernel: by VMCOREINFO ({info.source}), Linux {info.release} lies at "
                f"physical {stext - offset:#x}, and what the image has of memory ends at {end:#x}; it was cut short, "
                "copy or acquire it again"
            )
    if banner is None and (held := half_way(image)):
        return (
            f"{image.path} {held}, and no Linux kernel in them; the acquisition failed half-way or left the kernel "
            "out, take it again"
        )
    if banner is None:
        more = _STRICT if image.format == "raw" and end <= _FIRST_MIB else ""
        return (
            f"no Linux kernel in {image.path}: neither VMCOREINFO nor a kernel symbol table nor a "
            f"'Linux version' banner is in its {amount(end)} of memory; expected all the physical memory of an "
            f"{arch.name} Linux machine{more}"
        )
    if (machine := _COMPILED_FOR.search(banner)) is not None:
        return f"{image.path} {refusal(machine[1])} (its banner is '{banner}')"
    return (
        f"{image.path} holds the banner '{banner}', but no VMCOREINFO and no symbol table that fits it; the "
        f"image lacks the kernel's own pages or was cut short, or the kernel is not {arch.name}; acquire it again, "
        "whole and without filtering"
    )
