"""Where the members of ``task_struct`` lie, by what tasks hold, where its type is lost.

Every other type is worth little without this one, and no other can be told as surely: the list of tasks leads from
``init_task`` through all of them back to it, so that each offset has to fit a hundred of them at once.

==============  ==========================================================================================
``comm``        ``init_task`` is called swapper there
``tasks``       a circular list through ``init_task``, whose elements all have a name where ``comm`` is
``pid, tgid``   0 in ``init_task``, then 1 and 2, all different; of leaders they are equal, in this order
``mm``          none in ``init_task``; the ``owner`` of each is the task that has it
``real_parent`` each a task, in ``init_task`` itself; ``parent`` lies behind it
``signal``      its list of threads leads to ``thread_node`` and back, from one place in all that have one thread
``flags``       PF_KTHREAD is set where there is no ``mm`` ever was
==============  ==========================================================================================

What cannot be told so is unknown, like any member of a lost type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.kernel.space.kernel_space import WORD
from vmaforensics.kernel.structures.btf import Btf
from vmaforensics.kernel.structures.layout import Field, Layout, member
from vmaforensics.kernel.structures.type_sources import lacking_of_tasks, lacking_of_threads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.columns.types import U8, U32, U64, Bools
    from vmaforensics.kernel.kernel import Kernel

_LARGEST = 16 << 10  # bytes of a task_struct
_COMM = 16  # TASK_COMM_LEN (include/uapi/linux/sched.h)
_IDLE = b"swapper"
_MOST = 1 << 16  # tasks that a list is followed through
_SAMPLE = 128  # tasks that are asked for every member
_LEAST = 4  # tasks; fewer agree by chance
_PID_MAX = 1 << 22  # PID_MAX_LIMIT (include/linux/threads.h)
_KTHREAD = 0x00200000  # PF_KTHREAD (include/linux/sched.h)
_HALF = 0.5  # of the processes have one thread
_MOSTLY = 0.75  # of the tasks: processes share an mm, have threads, are on their way out


def derive_tasks(kernel: Kernel) -> None:
    """Have the kernel know ``task_struct`` by its tasks if its BTF lacks what the lists of processes and threads need.

    What was derived is added to the problems of its identity. Raises :class:`KernelNotFoundError` if the list of
    processes cannot be read.
    """
    types = kernel.types
    if not isinstance(types, Btf) or not lacking_of_tasks(types) + lacking_of_threads(types):
        return
    _Tasks(kernel).derive()
    if lacking := lacking_of_tasks(types):
        raise KernelNotFoundError(
            f"struct task_struct is not in the kernel's type information or damaged ({', '.join(lacking)}), and tasks "
            "do not say where its members lie; a file with types has to be given with --symbols"
        )
    kernel.forget()


class _Tasks:
    """The tasks that the list leads to, and what they hold."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._first = kernel.symbols.get("init_task") or 0
        layout = kernel.types.struct("task_struct")
        self._known = {} if layout is None else layout.fields
        self._size = min(layout.size, _LARGEST) & -8 if layout and layout.size > 0 else _LARGEST
        self._tasks = np.zeros(0, np.uint64)
        self._words, self._held = np.zeros((0, 0), np.uint64), np.zeros((0, 0), np.bool_)

    def derive(self) -> None:
        """Have the types know what can be derived: nothing if that is not the list of tasks and their pids."""
        comm = self._comm()
        tasks = None if comm is None else self._list(comm)
        if comm is None or tasks is None:
            return
        self._words, self._held = self._read(self._tasks)
        pids = self._pids()
        if not pids:
            return
        # Tasks come in the order of their pids along the first word of their links; the second leads back.
        self._know("list_head", next=_pointer(0, "list_head"), prev=_pointer(8, "list_head"))
        found = {
            "comm": Field(offset=comm, size=1, count=_COMM),
            "tasks": Field(offset=tasks, size=16, struct="list_head"),
            "pid": Field(offset=pids[0], size=4, signed=True),
        }
        if len(pids) > 1:
            found["tgid"] = Field(offset=pids[1], size=4, signed=True)
        mm = self._owned()
        if mm is not None:
            found["mm"] = _pointer(mm, "mm_struct")
            found["active_mm"] = _pointer(mm + 8, "mm_struct")
            if (flags := self._flags(mm)) is not None:
                found["flags"] = Field(offset=flags, size=4)
        if (parent := self._parents()) is not None:
            found["real_parent"], found["parent"] = (_pointer(parent + step, "task_struct") for step in (0, 8))
        if (signal := self._signal()) is not None:
            found["signal"] = _pointer(signal[0], "signal_struct")
            found["thread_node"] = Field(offset=signal[1], size=16, struct="list_head")
            self._know("signal_struct", thread_head=Field(offset=signal[2], size=16, struct="list_head"))
        self._know("task_struct", **found)

    def _know(self, struct: str, **fields: Field) -> None:
        """Have the types know of a structure what was derived of it, as far as they do not."""
        types, known = self._kernel.types, self._kernel.types.struct(struct)
        before = {} if known is None else known.fields
        names = [name for name in fields if name not in before]
        if not names or not isinstance(types, Btf):
            return
        size = known.size if known else max(field.offset + field.extent for field in fields.values())
        types.amend(Layout(name=struct, size=size, fields=fields | before))
        self._kernel.identity.problems.append(
            f"struct {struct} is lost or damaged in the types; {', '.join(names)} derived from what the tasks hold"
        )

    def _read(self, tasks: U64) -> tuple[U64, Bools]:
        """The words of each task, and which are held."""
        at = tasks[:, None] + np.arange(0, self._size, 8).astype(np.uint64)
        data, held = self._kernel.space.gather(at.ravel(), 8)
        return data.view("<u8")[:, 0].reshape(at.shape), held.reshape(at.shape)

    def _word(self, at: U64) -> tuple[U64, Bools]:
        data, held = self._kernel.space.gather(at, 8)
        return data.view("<u8")[:, 0], held

    def _comm(self) -> int | None:
        if "comm" in self._known:
            return self._known["comm"].offset
        words, held = self._read(np.array([self._first], np.uint64))
        at = np.where(held, words, np.uint64(0)).tobytes().find(_IDLE)
        return at if at >= 0 else None

    def _list(self, comm: int) -> int | None:
        """Where the links of the list of tasks lie; then the tasks are known."""
        if "tasks" in self._known:
            candidates = [self._known["tasks"].offset]
        else:
            words, held = self._read(np.array([self._first], np.uint64))
            own = np.arange(0, self._size - 8, 8, dtype=np.uint64) + np.uint64(self._first)
            after, before = words[0, :-1], words[0, 1:]
            good = held[0, :-1] & held[0, 1:] & (after != own) & (before != own)
            good &= self._kernel.arch.kernel_pointer(after) & self._kernel.arch.kernel_pointer(before)
            back, ok = self._word(after + np.uint64(8))
            on, also = self._word(before)
            candidates = (8 * np.flatnonzero(good & ok & also & (back == own) & (on == own))).tolist()
        for at in candidates:
            found = list(self._along(at, comm))
            if len(found) >= _LEAST:
                self._tasks = np.array(found[:_SAMPLE], np.uint64)
                return int(at)
        return None

    def _along(self, at: int, comm: int) -> Iterator[int]:
        """The tasks of the list whose links lie at ``at``, as long as they have names."""
        here, passed = self._first, set[int]()
        while here not in passed and len(passed) < _MOST:
            passed.add(here)
            read, ok = self._kernel.space.gather(np.array([(here + comm) % WORD], np.uint64), _COMM)
            link = self._kernel.space.word(here + at)
            if link is None or not ok[0] or not _is_name(read[0]):
                return
            yield here
            here = (link - at) % WORD

    def _pids(self) -> list[int]:
        """Where ``pid`` and ``tgid`` lie."""
        halves: U32 = self._words.view("<u4")
        held = np.repeat(self._held, 2, axis=1).all(0)
        good = held & (halves[0] == 0) & (halves < _PID_MAX).all(0)
        good &= (halves[1] == 1) & (halves[2] == 2)
        columns = [column for column in np.flatnonzero(good).tolist() if len(set(halves[:, column])) == len(halves)]
        pairs = [column for column in columns if column + 1 in columns]
        if "pid" in self._known:
            return [self._known["pid"].offset]
        if len(pairs) == 1:
            return [4 * pairs[0], 4 * pairs[0] + 4]
        return [4 * columns[0]] if len(columns) == 1 else []

    def _columns(self) -> U64:
        """The words that every task has and most have a pointer in, by their place."""
        pointers = self._kernel.arch.kernel_pointer(self._words.ravel()).reshape(self._words.shape)
        found: U64 = np.flatnonzero(self._held.all(0) & (pointers | (self._words == 0)).all(0)).astype(np.uint64)
        return found

    def _owned(self) -> int | None:
        """Where ``mm`` lies."""
        owner = member(self._kernel.types, "mm_struct", "owner")
        if owner is None:
            return None
        for column in self._columns().tolist():
            values = self._words[:, column]
            has = values != 0
            if values[0] or not values[1] or values[2] or int(has.sum()) < _LEAST:
                continue
            tasks, ok = self._word(values[has] + np.uint64(owner.offset))
            if (ok & (tasks == self._tasks[has])).mean() >= _MOSTLY:
                return int(column) * 8
        return None

    def _flags(self, mm: int) -> int | None:
        """Where ``flags`` lies. What has exited has no ``mm`` either."""
        is_set = (self._words.view("<u4") & np.uint32(_KTHREAD)) != 0
        without = self._words[:, mm // 8, None] == 0
        good = (without | ~is_set).all(0) & ((is_set == without).mean(0) >= _MOSTLY)
        good &= is_set[0] & ~is_set[1] & is_set[2] & np.repeat(self._held, 2, axis=1).all(0)
        good[2 * self._columns()[:, None].astype(np.int64) + [0, 1]] = False  # half of a pointer that such tasks have
        columns = np.flatnonzero(good)
        return 4 * int(columns[0]) if len(columns) == 1 else None

    def _parents(self) -> int | None:
        """Where ``real_parent`` lies, with ``parent`` behind it."""
        for column in self._columns().tolist():
            pair = self._words[:, int(column) : int(column) + 2]
            if pair.shape[1] < 2 or not (pair[:3] == self._first).all():
                continue  # the idle task is its own parent, and that of init and kthreadd
            if np.isin(pair, self._tasks).mean() >= _MOSTLY and (pair[3:] != self._first).any():
                return int(column) * 8
        return None

    def _signal(self) -> tuple[int, int, int] | None:
        """Where ``signal`` and ``thread_node`` lie, and ``thread_head`` in ``signal_struct``.

        A process of one thread has a list of one: both words of ``thread_node`` lead to its head, and that back. Each
        leader has a ``signal`` of its own, with its head in one place.
        """
        after, before = self._words[:, :-1], self._words[:, 1:]
        alone = (after == before) & (after != 0) & self._held[:, :-1] & self._held[:, 1:]
        for column in np.flatnonzero(alone.mean(0) >= _HALF).tolist():
            rows = np.flatnonzero(alone[:, column])
            node, head = self._tasks[rows] + np.uint64(8 * column), after[rows, column]
            first, ok = self._word(head)
            good = ok & (first == node) & (head != node)
            if good.mean() < _MOSTLY:
                continue
            rows, head = rows[good], head[good]
            for signal in self._columns().tolist():
                if signal in (column, column + 1):
                    continue
                values = self._words[:, int(signal)]
                with np.errstate(over="ignore"):
                    places = head - values[rows]
                if len(distinct(values)) == len(values) and (places == places[0]).all() and places[0] < _LARGEST:
                    return int(signal) * 8, int(column) * 8, int(places[0])
        return None


def _pointer(at: int, struct: str) -> Field:
    return Field(offset=at, size=8, struct=struct, pointer=True)


def _is_name(comm: U8) -> bool:
    """Is this text with a NUL behind it?"""
    text = comm.tobytes().split(b"\0", 1)
    return len(text) == 2 and bool(text[0]) and all(byte >= ord(" ") for byte in text[0])
