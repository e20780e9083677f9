"""The tables of the road and the entries of /proc: what each word of them leads to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.lookup import difference, distinct
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U16, U64
from vmaforensics.views.road.code_owners import Owner
from vmaforensics.views.road.expected import ENTRIES, FILES, TABLES
from vmaforensics.views.road.pointers import Group, Source, words_of
from vmaforensics.views.slab.homes import PROC_ENTRY, Homes

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.road.pointers import PointerLog

_MOST_ENTRIES: Final = 256  # of one array of pid_entry
_MOST_PROC_ENTRIES: Final = 1 << 17
_DEEPEST: Final = 1 << 9  # steps from the root of /proc to an entry, each folder being a tree of its own
_NAME: Final = 64
_FORMAT, _FOLDER = np.uint16(0o170000), np.uint16(0o040000)  # S_IFMT, S_IFDIR


def read_tables(kernel: Kernel, log: PointerLog) -> None:
    """The functions of every table of :data:`TABLES` that this kernel has."""
    for name, (struct, functions) in TABLES.items():
        places = kernel.symbols.find(name)
        if not places or kernel.types.struct(struct) is None:
            continue
        words = words_of(kernel, np.array(places, np.uint64), struct).pointers(kernel)
        wanted = {
            kernel.offset(struct, path): (belongs,) for path, belongs in functions.items() if kernel.has(struct, path)
        }
        log.add(
            Source.OPERATIONS,
            Group(name=name, struct=struct),
            words.at,
            words.value,
            words.ok,
            word=words.offset.tolist(),
            wanted=[wanted.get(offset, ()) for offset in words.offset.tolist()],
        )


@table(struct="pid_entry")
class _PidEntries(Table):
    name: U64 = member("name")
    fop: U64 = member("fop")
    iop: U64 = member("iop")
    show: U64 = member("op.proc_show")


def read_entries(kernel: Kernel, log: PointerLog) -> None:
    """What is below /proc/PID: each entry's table of files, and the function that shows it."""
    if kernel.types.struct("pid_entry") is None:
        return
    size = kernel.sizeof("pid_entry")
    symbols = kernel.symbols.by_address()
    for array in ENTRIES:
        start = kernel.symbols.get(array)
        if start is None:
            continue
        end = int(symbols.nearest(np.array([start], np.uint64)).end[0])
        count = min((end - start) // size, _MOST_ENTRIES)
        at = start + np.arange(count, dtype=np.uint64) * np.uint64(size)
        entries, ok = kernel.gather(_PidEntries, at)
        names = [(text or b"").decode("latin-1") for text in kernel.strings(entries.name, _NAME)]
        real = ok & np.array([bool(name) and name.isprintable() for name in names], np.bool_)
        if real.any():  # behind the last one there may be room up to the next symbol
            last = int(np.flatnonzero(real)[-1]) + 1
            at, entries, ok, names = at[:last], entries.take(slice(0, last)), ok[:last], names[:last]
        for path, values in (("fop", entries.fop), ("iop", entries.iop), ("op", entries.show)):
            wanted = [(FILES[name],) if path == "fop" and name in FILES else () for name in names]
            log.add(
                Source.ENTRY,
                Group(name=array, struct=f"pid_entry.{path}"),
                at + np.uint64(kernel.offset("pid_entry", path)),
                values,
                ok,
                wanted=wanted,
            )


@table(struct="proc_dir_entry")
class _ProcEntries(Table):
    subdir: U64 = member("subdir.rb_node")
    left: U64 = member("subdir_node.rb_left")
    right: U64 = member("subdir_node.rb_right")
    mode: U16 = member("mode")
    inode_ops: U64 = member("proc_iops")
    ops: U64 = member("proc_ops|proc_dir_ops?")
    dentry_ops: U64 = member("proc_dops?")
    show: U64 = member("seq_ops|single_show?")


def read_proc_entries(kernel: Kernel, log: PointerLog) -> dict[str, U64]:
    """What is below /proc beside processes: where each entry leads; returned are the tables, by structure."""
    root = kernel.symbols.get("proc_root")
    if root is None or not kernel.has("proc_dir_entry", "subdir_node"):
        return {}
    link = np.uint64(kernel.offset("proc_dir_entry", "subdir_node"))
    fresh, seen = np.array([root], np.uint64), np.zeros(0, np.uint64)
    parts = [_ProcEntries.zeros(0)]
    for _ in range(_DEEPEST):
        if not len(fresh) or len(seen) > _MOST_PROC_ENTRIES:
            break
        rows, ok = kernel.gather(_ProcEntries, fresh)
        for path, values in (
            ("proc_iops", rows.inode_ops),
            ("proc_ops|proc_dir_ops", rows.ops),
            ("proc_dops", rows.dentry_ops),
            ("seq_ops|single_show", rows.show),
        ):
            if kernel.has("proc_dir_entry", path):
                at = fresh + np.uint64(kernel.offset("proc_dir_entry", path))
                group = Group(name="proc_dir_entry", struct=f"proc_dir_entry.{path.split('|', 1)[0]}")
                log.add(Source.PROC_ENTRY, group, at, values, ok, home=fresh)
        parts.append(rows.take(ok))
        seen = distinct(seen, fresh)
        below = np.concatenate([rows.subdir[ok], rows.left[ok], rows.right[ok]])
        fresh = difference(below[kernel.arch.kernel_pointer(below)] - link, seen)
        fresh = fresh[kernel.shared(Homes).admits(PROC_ENTRY, fresh)]
    log.unread += len(fresh)
    found = _ProcEntries.concatenate(parts)
    folder = (found.mode & _FORMAT) == _FOLDER
    return {
        "inode_operations": found.inode_ops,
        "file_operations": found.ops[folder],
        "proc_ops": found.ops[~folder],
        "dentry_operations": found.dentry_ops,
        "seq_operations": found.show,  # those of one function are passed over: they lead to code
    }


def read_led_to(kernel: Kernel, log: PointerLog, struct: str, addresses: U64, source: Source = Source.TABLE) -> None:
    """The functions of each table of some kind that objects lead to."""
    addresses = distinct(addresses[kernel.arch.kernel_pointer(addresses)])
    addresses = addresses[log.owners.of(addresses) == Owner.NOBODY]  # code is no table
    if not len(addresses) or kernel.types.struct(struct) is None:
        return
    words = words_of(kernel, addresses, struct, without=("owner", "fop_flags", "proc_flags")).pointers(kernel)
    home = addresses[words.row]
    own, led_to = log.modules.of(home), log.modules.of(words.value)
    log.add(
        source,
        Group(name=struct, struct=struct),
        words.at,
        words.value,
        words.ok,
        word=words.offset.tolist(),
        home=home,
        modular=own != 0,
        alien=(own != 0) & log.modules.alien(led_to, own),
    )
