"""What holds of code on x86-64; see the interface for what each member is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.arch.code_interface import CodeInterface
from vmaforensics.arch.x86_64 import (
    boot_image,
    code_marks,
    code_patches,
    instructions,
    kernel_text,
    machine_code,
    switches,
    vectors,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.arch.branches import Branches, Dispatched, Flow, Vectors, VectorTable
    from vmaforensics.arch.reading import KernelReader
    from vmaforensics.arch.reference_text import PatchedPlaces, ReferenceText
    from vmaforensics.columns.types import I64, U8, U64, Bools


class Code(CodeInterface):
    """A part of :class:`vmaforensics.arch.x86_64.architecture.X86_64`."""

    def breakpoints(self, code: U8) -> Bools:
        return machine_code.breakpoints(code)

    def looks_like_code(self, pages: U8) -> Bools:
        return code_marks.looks_like_code(pages)

    def probe_sizes(self, first: U8) -> I64:
        return machine_code.probe_sizes(first)

    patch_size = code_patches.SIZE
    no_operation = code_patches.NO_OPERATION
    filler = code_patches.FILLER
    patch_records = code_patches.PATCH_RECORDS
    tracer_calls = code_patches.TRACER_CALLS
    system_call_tables = vectors.SYSTEM_CALL_TABLES
    system_call_switches = vectors.SYSTEM_CALL_SWITCHES
    system_call_names = vectors.SYSTEM_CALL_NAMES
    vector_table = vectors.TABLE
    entry_symbols = vectors.SYMBOLS
    entry_text = vectors.ENTRY_TEXT
    entry_functions = vectors.ENTRY_FUNCTIONS

    def branches(self, code: U8, at: U64) -> Branches:
        return code_patches.branches(code, at)

    def vectors(self, kernel: KernelReader) -> Vectors:
        return vectors.vectors(kernel)

    def vector_tables(self, kernel: KernelReader) -> tuple[VectorTable, ...]:
        return vectors.vector_tables(kernel)

    def flow(self, code: U8, at: U64) -> Flow:
        return instructions.flow(code, at)

    def far_branches(self, code: U8, base: int) -> tuple[I64, U64]:
        return instructions.far_branches(code, base)

    def follow_switch(self, code: U8, at: int, numbers: U64, words: Callable[[U64], tuple[U64, Bools]]) -> Dispatched:
        return switches.follow_switch(code, at, numbers, words)

    def boot_payload(self, raw: bytes) -> bytes | None:
        return boot_image.boot_payload(raw)

    def explained_text(self, kernel: KernelReader, text: ReferenceText, places: PatchedPlaces) -> Bools:
        return kernel_text.explained(kernel, text, places)
