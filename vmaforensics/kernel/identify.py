"""What a kernel says of itself: its banner, build id, where it was put."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vmaforensics.arch.interface import Architecture
    from vmaforensics.kernel.kernel import Symbols
    from vmaforensics.kernel.space.kernel_space import KernelSpace
    from vmaforensics.kernel.symbols.vmcoreinfo import Vmcoreinfo


def banner(text: KernelSpace, symbols: Symbols, info: Vmcoreinfo | None) -> str:
    """The line that begins with "Linux version", without the newline; of VMCOREINFO's release if it is not there."""
    at = symbols.get("linux_banner")
    if at is not None:
        data, ok = text.gather(np.array([at], np.uint64), 256)
        if ok[0]:
            return data.tobytes().split(b"\0", 1)[0].decode("ascii", "backslashreplace").strip()
    return f"Linux version {info.release}" if info else ""


def release(banner: str) -> str:
    """``uname -r`` out of a banner, "" if it has none."""
    words = banner.split()
    return words[2] if len(words) > 2 else ""


def kaslr(symbols: Symbols, info: Vmcoreinfo | None, arch: Architecture) -> int | None:
    """How far the kernel image was moved from where it was linked, in bytes; None if nothing says so."""
    stated = info.plain("KERNELOFFSET") if info else None
    if stated is not None:
        return stated
    text = symbols.get("_text")
    return None if text is None else arch.kaslr_offset(text)


def build_id(text: KernelSpace, symbols: Symbols, info: Vmcoreinfo | None) -> str | None:
    """The GNU build id of vmlinux in hexadecimal: VMCOREINFO's, or that of the kernel's own notes."""
    if info and "BUILD-ID" in info.values:
        return info.values["BUILD-ID"]
    start, stop = symbols.get("__start_notes"), symbols.get("__stop_notes")
    if start is None or stop is None or not 0 < stop - start <= 1 << 16:
        return None
    data, ok = text.gather(np.array([start], np.uint64), stop - start)
    raw = data.tobytes()
    at = raw.find(b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0")
    return raw[at + 16 : at + 36].hex() if ok[0] and at >= 0 else None
