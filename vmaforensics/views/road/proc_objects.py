"""Inodes, dentries and open files of /proc: each has its own pointer to the table it works by (fs/inode.c, fs/open.c).

``proc_pident_instantiate`` copies ``i_fop`` and ``i_op`` from the entry into the inode, ``do_dentry_open`` copies
``f_op`` from there, and ``seq_open`` puts ``op`` into a ``seq_file``: whoever wants to lie about one process needs only
one of these copies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.lookup import distinct, rows_of, values_at
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U64, Bools
from vmaforensics.views.road.pointers import Group, Source
from vmaforensics.views.structures.circular_lists import follow_list

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.road.pointers import PointerLog

_MAGIC: Final = np.uint64(0x9FA0)  # PROC_SUPER_MAGIC (include/uapi/linux/magic.h)
_MOST_SUPERS: Final = 1 << 12
_MOST_INODES: Final = 1 << 18  # of all of them
# Tables of files that a seq_file stands behind, and the table of its own that it works by.
_SEQUENCES: Final = {
    "proc_pid_maps_operations": "proc_pid_maps_op",
    "proc_pid_smaps_operations": "proc_pid_smaps_op",
    "proc_pid_numa_maps_operations": "proc_pid_numa_maps_op",
}


@table(struct="inode")
class _Inodes(Table):
    super_block: U64 = member("i_sb")
    files: U64 = member("i_fop")
    inodes: U64 = member("i_op")
    alias: U64 = member("i_dentry.first")


@table(struct="file")
class _Files(Table):
    ops: U64 = member("f_op")
    inode: U64 = member("f_inode")
    private: U64 = member("private_data")


def read_objects(kernel: Kernel, files: U64, log: PointerLog) -> dict[str, U64]:
    """Where every inode of /proc leads, its dentries, and those of ``files`` that are open on it.

    The tables they lead to are returned by structure; those of all other open files too.
    """
    supers, inodes = _proc_inodes(kernel, log)
    rows, ok = kernel.gather(_Inodes, inodes)
    log.unread += int((~ok).sum())
    ours = ok & np.isin(rows.super_block, supers)  # one that was given back meanwhile is not
    rows, inodes = rows.take(ours), inodes[ours]
    _add(kernel, log, "inode", "i_fop", inodes, rows.files)
    _add(kernel, log, "inode", "i_op", inodes, rows.inodes)
    dentry_ops = _dentries(kernel, log, inodes, rows.alias)
    opened, read = kernel.gather(_Files, files)
    log.unread += int((~read).sum())
    opened, files = opened.take(read), files[read]
    on_proc = np.isin(opened.inode, inodes)
    _add(kernel, log, "file", "f_op", files[on_proc], opened.ops[on_proc])
    sequences = _sequences(kernel, log, opened.take(on_proc))
    return {
        "file_operations": np.concatenate([rows.files, opened.ops]),
        "inode_operations": rows.inodes,
        "dentry_operations": dentry_ops,
        "seq_operations": sequences,
    }


def _add(kernel: Kernel, log: PointerLog, struct: str, path: str, addresses: U64, values: U64) -> None:
    at = addresses + np.uint64(kernel.offset(struct, path))
    ok: Bools = np.ones(len(at), np.bool_)
    log.add(Source.OBJECT, Group(name=struct, struct=f"{struct}.{path}"), at, values, ok, home=addresses)


def _proc_inodes(kernel: Kernel, log: PointerLog) -> tuple[U64, U64]:
    """(super blocks, inodes) of every /proc that is mounted, by address."""
    head = kernel.symbols.get("super_blocks")
    if head is None:
        return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    places, whole = follow_list(kernel, head, _MOST_SUPERS)
    supers = places - np.uint64(kernel.offset("super_block", "s_list"))
    magic, ok = kernel.gather_member("super_block", "s_magic", supers)
    whole &= bool(ok.all())
    supers = supers[ok & (magic == _MAGIC)]
    lists = kernel.offset("super_block", "s_inodes")
    found, room = [np.zeros(0, np.uint64)], _MOST_INODES
    for at in supers.tolist():
        links, to_its_end = follow_list(kernel, at + lists, room)
        found.append(links)
        room -= len(links)
        whole &= to_its_end
    if not whole:
        log.cut_short.append("inodes of /proc")
    return supers, distinct(np.concatenate(found)) - np.uint64(kernel.offset("inode", "i_sb_list"))


def _dentries(kernel: Kernel, log: PointerLog, inodes: U64, links: U64) -> U64:
    """``d_op`` of the first dentry of each inode; ``links`` are the nodes by which they are on the inodes' lists.

    One that does not lead back to its inode was given back meanwhile: what it holds is the allocator's.
    """
    known = kernel.arch.kernel_pointer(links)
    links, lists = links[known], inodes[known] + np.uint64(kernel.offset("inode", "i_dentry.first"))
    back, ok = kernel.gather_member("hlist_node", "pprev", links)
    alias = np.uint64(kernel.offset("dentry", "d_u.d_alias|d_alias"))
    dentries = links[ok & (back == lists)] - alias
    ops, ok = kernel.gather_member("dentry", "d_op", dentries)
    keep = ok & (ops != 0)
    _add(kernel, log, "dentry", "d_op", dentries[keep], ops[keep])
    found: U64 = ops[keep]
    return found


def _sequences(kernel: Kernel, log: PointerLog, opened: _Files) -> U64:
    """``op`` of the ``seq_file`` of each open file that shows areas, and the table that belongs there."""
    ops = {at: inner for name, inner in _SEQUENCES.items() for at in kernel.symbols.find(name)}
    known = np.array(sorted(ops), np.uint64)
    place = rows_of(known, opened.ops)
    rows = np.flatnonzero((place >= 0) & kernel.arch.kernel_pointer(opened.private))
    homes = opened.private[rows]
    if not len(homes) or not kernel.has("seq_file", "op"):
        return homes[:0]
    values, ok = kernel.gather_member("seq_file", "op", homes)
    wanted = [(ops[at],) for at in values_at(known, place[rows]).tolist()]
    log.add(
        Source.OBJECT,
        Group(name="seq_file", struct="seq_file.op"),
        homes + np.uint64(kernel.offset("seq_file", "op")),
        values,
        ok,
        wanted=wanted,
        home=homes,
    )
    return values[ok]


@table()
class Held(Table):
    """What an open file of some kinds stands for."""

    file: U64
    thing: U64  # a bpf_prog or bpf_link; of a perf event, its trace_event_call


def read_held(kernel: Kernel, files: U64) -> Held:
    """BPF programs, BPF links and events of perf that are open: who has a descriptor of one keeps it."""
    opened, ok = kernel.gather(_Files, files)
    opened, files = opened.take(ok), files[ok]
    events, things = (
        np.isin(opened.ops, np.array([at for name in names for at in kernel.symbols.find(name)], np.uint64))
        for names in (("perf_fops",), ("bpf_prog_fops", "bpf_link_fops", "bpf_link_fops_poll"))
    )
    found = Held(file=files[things], thing=opened.private[things])
    if not events.any() or not kernel.has("perf_event", "tp_event"):
        return found
    calls, ok = kernel.gather_member("perf_event", "tp_event", opened.private[events])
    return Held.concatenate([found, Held(file=files[events], thing=calls).take(ok & (calls != 0))])
