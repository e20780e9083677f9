"""What is machine code and what only has bytes of it here and there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tamper.frame_edits import FULL, STUB

from vmaforensics.arch.x86_64.code_marks import looks_like_code

if TYPE_CHECKING:
    from vmaforensics.columns.types import U8

PAGE = 4096


def pages(*contents: bytes) -> U8:
    return np.frombuffer(b"".join(content.ljust(PAGE, b"\0") for content in contents), np.uint8).reshape(-1, PAGE)


def test_a_page_of_code_and_a_stub_in_an_empty_page_are_code() -> None:
    moved = bytes(1000) + STUB
    assert looks_like_code(pages(FULL, STUB, moved)).tolist() == [True] * 3


def test_a_page_half_of_code_is_code() -> None:
    assert looks_like_code(pages(FULL[: PAGE // 2])).tolist() == [True]


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes_are_none(seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (64, PAGE), np.uint8)
    assert not looks_like_code(noise).any()


def test_pointers_texts_counts_and_nothing_are_none() -> None:
    pointers = (np.uint64(0xFFFF_8880_4800_0000) + np.arange(512, dtype=np.uint64) * np.uint64(0x48)).tobytes()
    few = (np.uint64(0xFFFF_8880_4889_0000) + np.arange(20, dtype=np.uint64) * np.uint64(64)).tobytes()
    text = (b"HELLO, H\x89 it is only a text that goes on and on. " * 100)[:PAGE]
    counts = np.arange(1024, dtype=np.uint32).tobytes()
    assert not looks_like_code(pages(b"", pointers, few, text, counts, bytes(range(256)) * 16)).any()


def test_tables_of_functions_are_none_wherever_the_kernel_lies() -> None:
    """ftrace keeps such tables. From 0xffffffff8d48e000 on each address has bytes of lea and many those of a call."""
    first = np.uint64(0xFFFF_FFFF_8040_E000) + np.arange(1024, dtype=np.uint64)[:, None] // 16 * np.uint64(0x100_0000)
    first += np.arange(1024, dtype=np.uint64)[:, None] % 16 * np.uint64(0x1_0000)
    tables = first + np.arange(512, dtype=np.uint64) * np.uint64(12)
    assert not looks_like_code(tables.astype("<u8").view(np.uint8)).any()


def test_code_beside_a_table_of_addresses_is_code() -> None:
    table = (np.uint64(0xFFFF_FFFF_8D35_C000) + np.arange(256, dtype=np.uint64) * np.uint64(16)).tobytes()
    assert looks_like_code(pages(table + FULL[: PAGE // 2])).tolist() == [True]


def test_a_stub_beside_other_data_is_not_told() -> None:
    """It is a limit: what is looked for is a page with a stub and nothing else."""
    assert looks_like_code(pages(STUB + b"x" * 3000)).tolist() == [False]


def test_no_pages_are_no_code() -> None:
    assert looks_like_code(np.zeros((0, PAGE), np.uint8)).tolist() == []
