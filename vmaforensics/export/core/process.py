"""What a core file says of the process itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import UsageError
from vmaforensics.words.printable import comm_of

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.tasks import Tasks
    from vmaforensics.views.views import Views

_ARGUMENTS = 80  # ELF_PRARGSZ
_SIGINFO = 128  # SI_MAX_SIZE
_NICE_0 = 120  # DEFAULT_PRIO: static_prio of nice 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process as NT_PRPSINFO, NT_AUXV and NT_SIGINFO tell of it; 0 or empty where the image does not say."""

    pid: int
    parent: int
    group: int
    session: int
    uid: int
    gid: int
    state: int
    flags: int
    nice: int
    comm: bytes
    arguments: bytes
    auxv: bytes
    siginfo: bytes
    page_size: int
    narrow: bool  # a 32-bit program
    exited: bool


def tasks_of(views: Views, pid: int, mm: int) -> Tasks:
    """The tasks of a process that use ``mm``, listed or not. Raises :class:`UsageError` if there are none."""
    listed = views.tasks.take((views.tasks.tgid == pid) & (views.tasks.mm == np.uint64(mm)))
    if not len(listed) and views.sources is not None:
        others = views.sources.tasks
        listed = others.take(others.ok & (others.tgid == pid) & (others.mm == np.uint64(mm)))
    if not len(listed):
        raise UsageError(f"no thread of pid {pid} uses the mm_struct at {mm:#x}")
    return listed


def core_process(kernel: Kernel, views: Views, tasks: Tasks, mm: int) -> Process:
    """What the image says of the process of ``tasks``, whose memory map is ``mm``."""
    leader = int(np.argmax(tasks.leader))
    task = tasks.task[leader : leader + 1]
    row = int(views.mm_rows(np.array([mm], np.uint64))[0])
    task_size = int(views.mms.task_size[row]) if row >= 0 else 0

    def number(path: str) -> int:
        values, ok = kernel.gather_member("task_struct", f"{path}?", task)
        return int(values[0]) if ok[0] else 0

    return Process(
        pid=int(tasks.tgid[leader]),
        parent=_pid(kernel, "task_struct", "tgid", number("real_parent")),
        group=_pid_of(kernel, number("signal"), "PIDTYPE_PGID"),
        session=_pid_of(kernel, number("signal"), "PIDTYPE_SID"),
        uid=_of(kernel, "cred", "uid.val", number("cred")),
        gid=_of(kernel, "cred", "gid.val", number("cred")),
        state=int(tasks.state[leader]) & 0x7F,
        flags=int(tasks.flags[leader]),
        nice=max(min(number("static_prio") - _NICE_0, 19), -20),
        comm=comm_of(tasks.comm[leader]),
        arguments=_arguments(kernel, views, row),
        auxv=_auxv(kernel, mm, narrow=0 < task_size <= 1 << 32),
        siginfo=_siginfo(kernel, number("last_siginfo")),
        page_size=kernel.arch.page_size,
        narrow=0 < task_size <= 1 << 32,
        exited=not tasks.mm[leader],
    )


def _of(kernel: Kernel, struct: str, path: str, address: int) -> int:
    """An unsigned number of 32 bits in a structure; 0 where it cannot be read."""
    if not kernel.has(struct, path):
        return 0
    values, ok = kernel.gather_member(struct, path, np.array([address], np.uint64))
    return int(values[0]) & 0xFFFFFFFF if ok[0] else 0


def _pid(kernel: Kernel, struct: str, path: str, address: int) -> int:
    """The number of a process in a structure; 0 where it cannot be read."""
    return _of(kernel, struct, path, address) & 0x7FFFFFFF


def _pid_of(kernel: Kernel, signal: int, kind: str) -> int:
    """The number in the first namespace of a pid that a process belongs to, by its place in ``enum pid_type``."""
    place = kernel.types.constant(kind)
    if place is None or not kernel.has("signal_struct", "pids") or not kernel.has("pid", "numbers"):
        return 0
    at = signal + kernel.offset("signal_struct", "pids") + 8 * place
    words, ok = kernel.words(np.array([at % (1 << 64)], np.uint64), 1)
    if not ok[0]:
        return 0
    first = (int(words[0, 0]) + kernel.offset("pid", "numbers")) % (1 << 64)
    return _pid(kernel, "upid", "nr", first)


def _auxv(kernel: Kernel, mm: int, *, narrow: bool) -> bytes:
    """``saved_auxv`` up to its end (fill_auxv_note)."""
    member = kernel.member("mm_struct", "saved_auxv")
    words, ok = kernel.words(np.array([mm + member.offset], np.uint64), member.extent // 8)
    if not ok[0]:
        return b""
    vector = words[0].view("<u4") if narrow else words[0]
    pairs = vector[: len(vector) // 2 * 2].reshape(-1, 2)
    ends = np.flatnonzero(pairs[:, 0] == 0)
    # A 32-bit program has words of 32 bits; the core file is one of 64 bits, and so is its note.
    count = int(ends[0]) + 1 if len(ends) else len(pairs)
    return bytes(pairs[:count].astype("<u8").data)


def _siginfo(kernel: Kernel, address: int) -> bytes:
    """The kernel_siginfo of a thread that is stopped for its tracer, with zeros behind it."""
    layout = kernel.types.struct("kernel_siginfo")
    if not address or layout is None or not 0 < layout.size <= _SIGINFO:
        return b""
    words, ok = kernel.words(np.array([address], np.uint64), layout.size // 8)
    return words[0].tobytes().ljust(_SIGINFO, b"\0") if ok[0] else b""


def _arguments(kernel: Kernel, views: Views, row: int) -> bytes:
    """The start of the command line, with blanks between the arguments (fill_psinfo)."""
    view = views.page_tables
    if view is None or row < 0:
        return b""
    start, end = int(views.mms.arg_start[row]), int(views.mms.arg_end[row])
    count = min(max(end - start, 0), _ARGUMENTS - 1)
    vas = np.uint64(start) + np.arange(count, dtype=np.uint64)
    at = view.entries.rows_at(np.full(count, row), vas)
    if (at < 0).any() or not (ptes := view.entries.take(at)).maps_frames().all():
        return b""
    pas = kernel.arch.bytes_of(ptes.pfn) + (vas - ptes.va)
    data, ok = kernel.memory.gather(pas, 1)
    return data.tobytes().rstrip(b"\0").replace(b"\0", b" ") if ok.all() else b""
