"""BPF: programs that are loaded, what they are attached to, who holds them, and where their code lies (kernel/bpf)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U32, U64, U8Wide
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.stacks.modules import Part
from vmaforensics.views.stacks.programs import Programs as Symbols
from vmaforensics.views.stacks.programs import read_programs
from vmaforensics.views.structures.circular_lists import follow_list
from vmaforensics.views.structures.xarray import all_pointers
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_MOST: Final = 1 << 16
_NAME: Final = 512
_PACK: Final = 1 << 21  # bytes of a pack of programs (BPF_PROG_PACK_SIZE: PMD_SIZE for each memory node)

# enum bpf_prog_type (include/uapi/linux/bpf.h), which never changes; those that work on code of the kernel.
TYPES: Final = {
    2: "kprobe",
    5: "tracepoint",
    7: "perf_event",
    17: "raw_tracepoint",
    24: "raw_tracepoint_writable",
    26: "tracing",
    27: "struct_ops",
    28: "ext",
    29: "lsm",
    31: "syscall",
}


@table(struct="bpf_prog")
class Programs(Table):
    """A row is a ``struct bpf_prog``."""

    prog: U64
    type: U32 = member("type")
    aux: U64 = member("aux")
    func: U64 = member("bpf_func")


@table(struct="bpf_prog_aux")
class _Aux(Table):
    id: U32 = member("id")
    name: U8Wide = member("name")
    attached: U64 = member("attach_func_name?")  # address of a string


class FoundPrograms(NamedTuple):
    """Programs with their names and the functions they are attached to (empty: none by name); and their code."""

    programs: Programs
    ids: U32
    names: tuple[bytes, ...]
    attached: tuple[bytes, ...]
    links: U64  # addresses of struct bpf_link
    link_programs: U64  # the program of each
    symbols: Symbols  # of their code
    packs: Part
    whole: bool


def find_programs(kernel: Kernel) -> FoundPrograms:
    """Every BPF program by ``prog_idr``, its links by ``link_idr``, and its code by ``bpf_kallsyms``."""
    at, whole = _indexed(kernel, "prog_idr")
    if not kernel.has("bpf_prog", "aux") or not kernel.has("bpf_prog_aux", "name"):
        at = at[:0]
    programs, ok = kernel.gather(Programs, at) if len(at) else (Programs.zeros(0), np.zeros(0, np.bool_))
    programs.prog[:] = at
    programs = programs.take(ok)
    aux, read = kernel.gather(_Aux, programs.aux) if len(programs) else (_Aux.zeros(0), np.zeros(0, np.bool_))
    programs, aux = programs.take(read), aux.take(read)
    links, links_whole = _indexed(kernel, "link_idr")
    theirs, ok = kernel.gather_member("bpf_link", "prog", links) if len(links) else (links, np.zeros(0, np.bool_))
    code, (packs, packs_whole) = read_programs(kernel), _packs(kernel)
    return FoundPrograms(
        programs=programs,
        ids=aux.id,
        names=tuple(row.tobytes().split(b"\0", 1)[0] for row in aux.name),
        attached=tuple(text or b"" for text in kernel.strings(aux.attached, _NAME)),
        links=links[ok],
        link_programs=theirs[ok],
        symbols=code.programs,
        packs=packs,
        whole=whole and links_whole and code.whole and packs_whole,
    )


def _indexed(kernel: Kernel, name: str) -> tuple[U64, bool]:
    """Every pointer in an IDR of the kernel."""
    head = kernel.symbols.get(name)
    if head is None or not kernel.has("idr", "idr_rt.xa_head"):
        return np.zeros(0, np.uint64), False
    words, ok = kernel.words(np.array([head + kernel.offset("idr", "idr_rt.xa_head")], np.uint64), 1)
    found = all_pointers(kernel, words[ok, 0], View.CODE, ProblemLog())
    usable = kernel.arch.kernel_pointer(found.pointers)
    return found.pointers[usable], found.whole and bool(ok[0]) and bool(usable.all())


def _packs(kernel: Kernel) -> tuple[Part, bool]:
    """Memory that programs share (5.18): ``pack_list``; was it read to its end?"""
    head = kernel.symbols.get("pack_list")
    if head is None or not kernel.has("bpf_prog_pack", "ptr"):
        return Part(np.zeros(0, np.uint64), np.zeros(0, np.uint64)), True
    places, whole = follow_list(kernel, head, _MOST)
    starts, ok = kernel.gather_member(
        "bpf_prog_pack", "ptr", places - np.uint64(kernel.offset("bpf_prog_pack", "list"))
    )
    starts = starts[ok & kernel.arch.kernel_pointer(starts)]
    return Part(starts, starts + np.uint64(_PACK)), whole and bool(ok.all())
