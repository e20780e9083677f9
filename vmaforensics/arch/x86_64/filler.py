"""Instructions that do nothing, by which the kernel fills what it leaves over (arch/x86/include/asm/nops.h)."""

from __future__ import annotations

from typing import Final

# x86_nops of 1 to 11 bytes; and K8 and generic ones, of which 5.10 and older choose by CPU.
_NOPS: Final = tuple(
    bytes.fromhex(text)
    for text in (
        *("90", "6690", "0f1f00", "0f1f4000", "0f1f440000", "660f1f440000", "0f1f8000000000", "0f1f840000000000"),
        *("660f1f840000000000", "66660f1f840000000000", "6666660f1f840000000000", "2e660f1f840000000000"),
        *("2e0f1f840000000000", "662e0f1f840000000000", "66662e0f1f840000000000"),
        *("666690", "66666690", "6666666690", "666666666690", "66666666666690", "6666666666666690"),
        *("8d7600", "8d742600", "3e8d742600", "8db600000000", "8db42600000000", "3e8db42600000000"),
        *("cc",),
    )
)


def is_filler(code: bytes) -> bool:
    """Does ``code`` consist of such instructions, or of a short jump over all of it?"""
    if not code or (code[:1] == b"\xeb" and len(code) > 1 and code[1] == len(code) - 2):
        return True
    reached = {0}
    for at in range(len(code)):
        if at in reached:
            reached |= {at + len(nop) for nop in _NOPS if code.startswith(nop, at)}
    return len(code) in reached
