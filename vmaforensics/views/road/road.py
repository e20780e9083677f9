"""All that stands between a reader of /proc and the areas of a process, and who has a hand in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct, rows_of
from vmaforensics.views.road.bpf import find_programs
from vmaforensics.views.road.code_flow import FoundFlow, find_flow
from vmaforensics.views.road.code_owners import Owner, kernel_and_modules
from vmaforensics.views.road.entrances import (
    read_security_hooks,
    read_switches,
    read_system_calls,
    read_tracepoints,
    read_vectors,
)
from vmaforensics.views.road.foreign_code import find_foreign_code
from vmaforensics.views.road.functions import road_functions
from vmaforensics.views.road.livepatch import find_replaced
from vmaforensics.views.road.loaded import LoadedModules, find_loaded
from vmaforensics.views.road.mapped import read_mapped
from vmaforensics.views.road.module_uses import ModuleUses
from vmaforensics.views.road.pointers import PointerLog, member_at
from vmaforensics.views.road.probes import find_probes
from vmaforensics.views.road.proc_objects import Held, read_held, read_objects
from vmaforensics.views.road.proc_tables import read_entries, read_led_to, read_proc_entries, read_tables
from vmaforensics.views.road.sites import FoundSites, find_sites
from vmaforensics.views.road.text import ComparedText, compare_text
from vmaforensics.views.road.tracers import OpsFlag, find_tracers
from vmaforensics.views.stacks.modules import Part

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmaforensics.arch.registers import CpuState
    from vmaforensics.columns.types import U64
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.kernel.reference import ReferenceKernel
    from vmaforensics.views.road.bpf import FoundPrograms
    from vmaforensics.views.road.code_owners import CodeOwners
    from vmaforensics.views.road.foreign_code import FoundCode
    from vmaforensics.views.road.functions import Functions
    from vmaforensics.views.road.livepatch import Replaced
    from vmaforensics.views.road.pointers import Group, Pointers
    from vmaforensics.views.road.probes import FoundProbes
    from vmaforensics.views.road.tracers import Tracers
    from vmaforensics.views.vmas.files import Files
    from vmaforensics.views.vmas.vmas import Vmas

# Bytes that one of them may have: a record that claims more owns nothing, for it would hide what lies there.
_LARGEST_TRAMPOLINE, _LARGEST_PROGRAM = 1 << 14, 1 << 22
_CALLERS = ("ftrace_caller", "ftrace_regs_caller")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoadView:
    """See :func:`gather_road`."""

    functions: Functions  # of the road
    loaded: LoadedModules  # those that only foreign code led to among them
    owners: CodeOwners
    uses: ModuleUses
    sites: FoundSites
    flow: FoundFlow  # where code goes on
    text: ComparedText  # with the file that the kernel was booted from
    callers: U64  # what ftrace patches calls to where no trampoline of its own was made
    tracers: Tracers
    probes: FoundProbes
    programs: FoundPrograms
    replaced: Replaced
    pointers: Pointers
    groups: list[Group]
    wanted: list[tuple[str, ...]]
    unread: int  # pointers that could not be read
    cut_short: tuple[str, ...]  # lists that were not read to their ends, in words
    foreign: FoundCode
    held: Held  # what open files stand for
    patching: bool  # code was being patched at that moment
    named: bool  # functions of the kernel are known by name
    list_offset: int  # of module.list
    symbols: _Symbols

    def member(self, struct: str, offset: int) -> str:
        """The member at an offset of a structure of functions."""
        return self.symbols.member(struct, offset)

    def module_at(self, address: int) -> bytes:
        """Name of the module whose code or data is at an address; empty for none."""
        modules = self.loaded.modules
        row = int(rows_of(modules.module, self.uses.of(np.array([address], np.uint64)))[0])
        return bytes(modules.name[row]).partition(b"\0")[0] if row >= 0 else b""

    def link_of(self, row: int) -> int:
        """Address of the list_head of a row of the modules."""
        return int(self.loaded.modules.module[row]) + self.list_offset


class _Symbols:
    """Names of addresses of the kernel, and of members, for those who put findings into words."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._by_address = kernel.symbols.by_address()

    def member(self, struct: str, offset: int) -> str:
        """The member at an offset of a structure."""
        return member_at(self._kernel, struct, offset)

    def name(self, address: int) -> str:
        """FUNCTION or FUNCTION+0xOFFSET; empty where nothing is known."""
        nearest = self._by_address.nearest(np.array([address], np.uint64))
        row = int(nearest.row[0])
        if row < 0:
            return ""
        offset = address - int(nearest.start[0])
        return self._by_address.name(row) + (f"+{offset:#x}" if offset else "")


def gather_road(
    kernel: Kernel,
    files: U64,
    vmas: Vmas,
    mapped: Files,
    *,
    cpus: tuple[CpuState, ...] = (),
    patched: bool = True,
    reference: ReferenceKernel | None = None,
) -> RoadView:
    """Read code, tables, hooks and modules of the kernel, and what mappings work by.

    ``files`` are open files, by address of ``struct file``; ``mapped`` those of ``vmas``; ``cpus`` what the image says
    of the state of each CPU.

    Without ``patched`` the places that the kernel patches are left out: they lie in every page of its code. With a
    ``reference``, every byte of its code is compared with that.
    """
    loaded = find_loaded(kernel)
    tracers, probes, programs = find_tracers(kernel), find_probes(kernel), find_programs(kernel)
    owners = kernel_and_modules(kernel, loaded.modules).plus(_made(tracers, probes, programs))
    foreign = find_foreign_code(kernel, owners, programs.packs)
    if len(foreign.hidden):
        loaded = _with(loaded, foreign)
        owners = kernel_and_modules(kernel, loaded.modules).plus(_made(tracers, probes, programs))
    modules = loaded.modules
    uses = ModuleUses(kernel, modules.module)
    log = PointerLog(kernel, owners, uses, modules.module[~modules.listed])
    functions, sites = road_functions(kernel), find_sites(kernel) if patched else FoundSites.none()
    _read_pointers(kernel, files, log, sites.places)
    read_vectors(kernel, log, [state.vector_table for state in cpus if state.vector_table])
    read_mapped(kernel, vmas, mapped, log)
    patches = find_replaced(kernel)
    own = np.concatenate([sites.places, probes.probes.addr])
    cut_short = _cut_short(
        kernel,
        (
            ("the list of modules", "modules", loaded.list_whole),
            ("the tree of modules", "mod_tree", loaded.tree_whole),
            ("/sys/module", "module_kset", loaded.sysfs_whole),
            ("tracers", "ftrace_ops_list", tracers.whole),
            ("kprobes", "kprobe_table", probes.whole),
            ("BPF programs", "prog_idr", programs.whole),
            ("live patches", "klp_patches", patches.whole),
        ),
    )
    return RoadView(
        functions=functions,
        loaded=loaded,
        owners=owners,
        uses=uses,
        sites=sites,
        flow=_flow(kernel, functions, owners, own, tracers, foreign) if patched else FoundFlow.none(),
        text=ComparedText.none() if reference is None else compare_text(kernel, reference, tracers, probes),
        callers=_callers(kernel, tracers),
        tracers=tracers,
        probes=probes,
        programs=programs,
        replaced=patches.replaced,
        pointers=log.table(),
        groups=log.groups,
        wanted=log.wanted,
        unread=log.unread,
        cut_short=(*cut_short, *log.cut_short),
        foreign=foreign,
        held=read_held(kernel, files),
        patching=_patching(kernel),
        named=_named(kernel),
        list_offset=kernel.offset("module", "list") if kernel.has("module", "list") else 0,
        symbols=_Symbols(kernel),
    )


def _flow(
    kernel: Kernel, functions: Functions, owners: CodeOwners, own: U64, tracers: Tracers, foreign: FoundCode
) -> FoundFlow:
    called = tracers.ops.func[tracers.ops.linked]
    return find_flow(kernel, functions, owners, own, called, foreign.executable, named=_named(kernel))


def _cut_short(kernel: Kernel, lists: Iterable[tuple[str, str, bool]]) -> tuple[str, ...]:
    """In words, the lists that the kernel has more of; each is what it is of, its symbol, and was its end reached."""
    return tuple(what for what, name, whole in lists if not whole and kernel.symbols.get(name) is not None)


def _named(kernel: Kernel) -> bool:
    """Are the functions of the kernel known by name, all of them?"""
    symbols = kernel.symbols
    return symbols.every_function and all(symbols.get(name) is not None for name in ("_etext", "seq_read"))


def _made(
    tracers: Tracers, probes: FoundProbes, programs: FoundPrograms
) -> list[tuple[Owner, Part, tuple[bytes, ...]]]:
    """What tracers, probes and BPF have made.

    A tracer that is off keeps its trampoline. One that is on and that the kernel does not go by has none of its own.
    """
    known = tracers.ops.linked | ((tracers.ops.flags & np.uint64(OpsFlag.ENABLED)) == 0)
    size = tracers.ops.trampoline_size
    ops = tracers.ops.take(known & (size != 0) & (size <= _LARGEST_TRAMPOLINE))
    symbols = programs.symbols.take(programs.symbols.end - programs.symbols.start <= _LARGEST_PROGRAM)
    return [
        (Owner.TRAMPOLINE, Part(ops.trampoline, ops.trampoline + ops.trampoline_size), (b"",) * len(ops)),
        (Owner.PROBE, probes.slots, (b"",) * len(probes.slots.start)),
        (
            Owner.BPF,
            Part(symbols.start, symbols.end),
            symbols.names(),
        ),
    ]


def _with(loaded: LoadedModules, foreign: FoundCode) -> LoadedModules:
    fresh = foreign.hidden.take(~np.isin(foreign.hidden.module, loaded.modules.module))
    modules = type(fresh).concatenate([loaded.modules, fresh])
    return LoadedModules(
        modules=modules.sort_by(modules.module),
        list_whole=loaded.list_whole,
        tree_whole=loaded.tree_whole,
        sysfs_whole=loaded.sysfs_whole,
    )


def _read_pointers(kernel: Kernel, files: U64, log: PointerLog, patched: U64) -> None:
    read_tables(kernel, log)
    read_entries(kernel, log)
    led_to = (read_proc_entries(kernel, log), read_objects(kernel, files, log))
    for struct in ("file_operations", "inode_operations", "proc_ops", "dentry_operations", "seq_operations"):
        parts = [found[struct] for found in led_to if struct in found]
        read_led_to(kernel, log, struct, np.concatenate([np.zeros(0, np.uint64), *parts]))
    read_system_calls(kernel, log)
    read_switches(kernel, log, patched)
    read_security_hooks(kernel, log)
    read_tracepoints(kernel, log)


def _callers(kernel: Kernel, tracers: Tracers) -> U64:
    """What calls at the entries of functions may lead to beside trampolines that were made: code of the kernel."""
    own = [at for name in _CALLERS for at in kernel.symbols.find(name)]
    plain = tracers.ops.linked & (tracers.ops.trampoline_size == 0)
    return distinct(np.array(own, np.uint64), tracers.ops.trampoline[plain & (tracers.ops.trampoline != 0)])


def _patching(kernel: Kernel) -> bool:
    """Is code being patched?"""
    for name, struct, path in kernel.arch.patch_records:
        at = kernel.symbols.get(name)
        if at is None or not kernel.has(struct, path):
            continue
        if _is_pointer(kernel, at, struct):
            return bool(kernel.variable(name, 8))
        count, ok = kernel.gather_member(struct, path, np.array([at], np.uint64))
        return bool(ok[0] and count[0])
    return False


def _is_pointer(kernel: Kernel, at: int, struct: str) -> bool:
    """Is the variable at ``at``, by the next symbol, too small for the structure?"""
    nearest = kernel.symbols.by_address().nearest(np.array([at], np.uint64))
    return kernel.types.struct(struct) is not None and int(nearest.end[0]) - at < kernel.sizeof(struct)
