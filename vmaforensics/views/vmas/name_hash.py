"""The hash that a name has beneath its directory: ``full_name_hash`` of fs/namei.c, of many names at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from vmaforensics.columns.types import U8, U32, U64

_WORD: Final = 8
_GOLDEN_RATIO_64: Final = np.uint64(0x61C8864680B583EB)  # include/linux/hash.h


def name_hashes(names: U8, parents: U64) -> U32:
    """``d_name.hash`` of names of one length: ``names`` is ``(n, length)`` bytes, ``parents`` their parents' addresses.

    It is that of kernels that read names a word at a time (DCACHE_WORD_ACCESS) on a 64-bit little-endian machine, from
    4.8 on. A file system may have a hash of its own (``d_op->d_hash``).

    >>> name_hashes(np.zeros((1, 0), np.uint8), np.array([0], np.uint64)).tolist()
    [0]
    """
    count, length = names.shape
    padded = np.zeros((count, length // _WORD * _WORD + _WORD), np.uint8)  # what is beyond the name counts as zeros
    padded[:, :length] = names
    words = padded.view("<u8")
    x, y = np.zeros(count, np.uint64), parents.astype(np.uint64)
    for place in range(length // _WORD):  # HASH_MIX
        x ^= words[:, place]
        y ^= x
        x = _rotated(x, 12) + y
        y = _rotated(y, 45) * np.uint64(9)
    if length % _WORD or not length:
        x ^= words[:, length // _WORD]
    y = (y ^ x * _GOLDEN_RATIO_64) * _GOLDEN_RATIO_64  # fold_hash
    return (y >> np.uint64(32)).astype(np.uint32)


def _rotated(values: U64, bits: int) -> U64:
    """The words turned left by ``bits``."""
    return values << np.uint64(bits) | values >> np.uint64(64 - bits)
