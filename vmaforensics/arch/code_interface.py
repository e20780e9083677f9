"""What may be asked of the CPU about code: that of the kernel, as it was linked and as it patches itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.arch.branches import Branches, Dispatched, Flow, PatchRecord, Vectors, VectorTable
    from vmaforensics.arch.reading import KernelReader
    from vmaforensics.arch.reference_text import PatchedPlaces, ReferenceText
    from vmaforensics.columns.types import I64, U8, U64, Bools


class CodeInterface(ABC):
    """A part of :class:`vmaforensics.arch.interface.Architecture`."""

    @abstractmethod
    def breakpoints(self, code: U8) -> Bools:
        """Which bytes of code belong to a breakpoint instruction."""

    @abstractmethod
    def looks_like_code(self, pages: U8) -> Bools:
        """Which of ``pages``, a row of bytes each, are machine code or hold a stub of it and nothing else.

        A test for memory that nobody accounts for: what passes is code, but for a few pages in many thousands.
        """

    @abstractmethod
    def probe_sizes(self, first: U8) -> I64:
        """How many bytes a uprobe put where the byte ``first`` now stands; 0 if that is no probe's."""

    patch_size: int  # bytes of what the kernel patches in at the entries of functions that can be traced
    no_operation: U8  # as many bytes that do nothing
    filler: int  # the byte that unused code memory is filled with

    @abstractmethod
    def branches(self, code: U8, at: U64) -> Branches:
        """The instruction at each address ``at``; ``code`` has :attr:`patch_size` bytes from there in a row."""

    @abstractmethod
    def flow(self, code: U8, at: U64) -> Flow:
        """The instruction that would begin at each byte of ``code``, which lies at the address beside it."""

    @abstractmethod
    def far_branches(self, code: U8, base: int) -> tuple[I64, U64]:
        """Places in ``code``, which lies at ``base``, that may be calls or jumps that reach far: (place, target).

        Most are none; :meth:`flow` says where instructions begin.
        """

    @abstractmethod
    def follow_switch(self, code: U8, at: int, numbers: U64, words: Callable[[U64], tuple[U64, Bools]]) -> Dispatched:
        """Where a function goes for each number in its second argument; it lies at ``at`` and does nothing else.

        ``words`` gives the 64-bit words at addresses, and which were read: the function may jump by a table.
        """

    tracer_calls: tuple[str, ...]  # places in ftrace's own code that call what traces
    entry_symbols: tuple[str, ...]  # all that are asked for of where the kernel is entered
    entry_text: tuple[str, str]  # symbols around the code that the CPU enters the kernel at
    entry_functions: tuple[str, ...]  # what that code calls
    patch_records: tuple[PatchRecord, ...]  # what says that code is being patched; the kernel has one of them, or none
    system_call_tables: tuple[str, ...]  # symbols of arrays of functions, one for each ABI
    system_call_switches: tuple[tuple[str, str], ...]  # functions that decide instead, and the table that each follows
    system_call_names: tuple[str, ...]  # what the names of functions in them begin with
    vector_table: str  # symbol of what :meth:`vectors` reads

    @abstractmethod
    def boot_payload(self, raw: bytes) -> bytes | None:
        """The packed kernel in a file that machines boot from; None if ``raw`` is none for this CPU."""

    @abstractmethod
    def explained_text(self, kernel: KernelReader, text: ReferenceText, places: PatchedPlaces) -> Bools:
        """Which bytes of the kernel's code are as in its file, or as the kernel's own patches have left them."""

    @abstractmethod
    def vectors(self, kernel: KernelReader) -> Vectors:
        """Where the CPU goes on each exception and interrupt; none where the kernel's table cannot be read."""

    @abstractmethod
    def vector_tables(self, kernel: KernelReader) -> tuple[VectorTable, ...]:
        """What CPUs are told of where :attr:`vector_table` lies: other mappings of it."""
