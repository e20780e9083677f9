"""Return addresses that tracers replaced by their own: where calls really return to.

A kretprobe (kernel/trace/rethook.c, up to 5.17 kernel/kprobes.c) and the function-graph tracer (kernel/trace/fgraph.c)
put the address of a trampoline into a function's frame and keep the real one in a list or an array of the task, each
with the address of the word that they changed. ``unwind_recover_ret_addr`` of the kernel undoes it the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U64, Bools

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64
    from vmaforensics.kernel.kernel import Kernel

_TRAMPOLINES = ("arch_rethook_trampoline", "__kretprobe_trampoline", "kretprobe_trampoline", "return_to_handler")
_MOST_HOOKS = 256  # of one task
_HASH_LISTS = 64  # KPROBE_TABLE_SIZE (include/linux/kprobes.h): lists of kretprobe_inst_table
_SHADOW_STACK = 512  # words of task->ret_stack that are looked at (SHADOW_STACK_SIZE; before 6.11 it was smaller)


@table(struct="rethook_node")
class _Rethooks(Table):
    """Hooks of a task, the newest first (since 5.18)."""

    next: U64 = member("llist.next")
    ret_addr: U64 = member("ret_addr")  # the real one, or another trampoline if the function has several hooks
    frame: U64 = member("frame")  # address of the word that was changed


@table(struct="kretprobe_instance")
class _Kretprobes(Table):
    """The same from 5.11 to 5.17."""

    next: U64 = member("llist.next")
    ret_addr: U64 = member("ret_addr")
    frame: U64 = member("fp")


@table(struct="kretprobe_instance")
class _HashedKretprobes(Table):
    """Those of all tasks, in lists by a hash of the task (up to 5.10)."""

    next: U64 = member("hlist.next")
    ret_addr: U64 = member("ret_addr")
    frame: U64 = member("fp")
    task: U64 = member("task")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnHooks:
    """The trampolines of a kernel; see :func:`find_hooks`."""

    kernel: Kernel
    trampolines: U64

    def replaced(self, addresses: U64) -> Bools:
        """Which return addresses are a trampoline's."""
        hooked: Bools = np.isin(addresses, self.trampolines)
        return hooked

    def recover(self, tasks: U64, places: U64) -> U64:
        """The real return address of each task's word at ``places``; 0 where the task has no such hook."""
        real = self._from_lists(tasks, places)
        for other in (self._from_hash, self._from_shadow_stacks):
            left = np.flatnonzero(real == 0)
            real[left] = other(tasks[left], places[left])
        return real

    def _from_lists(self, tasks: U64, places: U64) -> U64:
        """Hooks of kretprobes, the lists of all tasks at once."""
        real = np.zeros(len(tasks), np.uint64)
        kind: type[_Rethooks | _Kretprobes]
        if self.kernel.has("task_struct", "rethooks") and self.kernel.has("rethook_node", "frame"):
            kind, head = _Rethooks, "rethooks.first"
        elif self.kernel.has("task_struct", "kretprobe_instances") and self.kernel.has("kretprobe_instance", "llist"):
            kind, head = _Kretprobes, "kretprobe_instances.first"
        else:
            return real
        node = np.uint64(self.kernel.offset(kind.struct, "llist"))
        at, _ = self.kernel.gather_member("task_struct", head, tasks)
        rows: I64 = np.flatnonzero(self.kernel.arch.kernel_pointer(at))
        at = at[rows]
        for _ in range(_MOST_HOOKS):
            if not len(rows):
                break
            hooks, ok = self.kernel.gather(kind, at - node)
            hit = ok & (hooks.frame == places[rows]) & ~self.replaced(hooks.ret_addr)
            real[rows[hit]] = hooks.ret_addr[hit]
            on = ok & ~hit & self.kernel.arch.kernel_pointer(hooks.next)
            rows, at = rows[on], hooks.next[on]
        return real

    def _from_hash(self, tasks: U64, places: U64) -> U64:
        """Hooks of kretprobes while they lay in one hash table."""
        real = np.zeros(len(tasks), np.uint64)
        lists = self.kernel.symbols.get("kretprobe_inst_table")
        if lists is None or not len(tasks) or not self.kernel.has("kretprobe_instance", "hlist.next"):
            return real
        node = np.uint64(self.kernel.offset("kretprobe_instance", "hlist"))
        heads, ok = self.kernel.words(np.uint64(lists) + np.arange(_HASH_LISTS, dtype=np.uint64) * np.uint64(8), 1)
        at = heads[ok, 0]
        for _ in range(_MOST_HOOKS):
            at = at[self.kernel.arch.kernel_pointer(at)]
            if not len(at):
                break
            hooks, ok = self.kernel.gather(_HashedKretprobes, at - node)
            for row in np.flatnonzero(ok & ~self.replaced(hooks.ret_addr)).tolist():
                same = (tasks == hooks.task[row]) & (places == hooks.frame[row])
                real[same] = hooks.ret_addr[row]
            at = hooks.next[ok]
        return real

    def _from_shadow_stacks(self, tasks: U64, places: U64) -> U64:
        """Entries of the function-graph tracer: the last that is of the word at each place.

        Until 6.10 an array of ``struct ftrace_ret_stack``, of which ``curr_ret_stack`` is the last; from 6.11 on those
        lie among other words, of which so many are in use (42675b723b48).
        """
        real = np.zeros(len(tasks), np.uint64)
        if not self.kernel.has("task_struct", "ret_stack") or not self.kernel.has("ftrace_ret_stack", "retp"):
            return real
        entry = self.kernel.sizeof("ftrace_ret_stack") // 8
        back = (
            max(self.kernel.offset("ftrace_ret_stack", "retp") - self.kernel.offset("ftrace_ret_stack", "ret"), 0) // 8
        )
        stacks, ok = self.kernel.gather_member("task_struct", "ret_stack", tasks)
        last, ok_last = self.kernel.gather_signed("task_struct", "curr_ret_stack", tasks)
        if self.kernel.member("task_struct", "ret_stack").struct == "ftrace_ret_stack":
            last = (last + 1) * entry
        words, readable = self.kernel.words(stacks, _SHADOW_STACK)
        place = np.arange(_SHADOW_STACK)
        hits = (words == places[:, None]) & (place[None, :] < last[:, None]) & (place[None, :] >= back)
        hits &= (ok & ok_last & readable)[:, None]
        # A function that ends in a jump to another leaves its place to that one, which returns to the trampoline.
        returns = np.zeros_like(words)
        returns[:, back:] = words[:, :-back] if back else words
        hits &= ~self.replaced(returns)
        rows = np.flatnonzero(hits.any(axis=1))
        newest = _SHADOW_STACK - 1 - hits[rows, ::-1].argmax(axis=1)
        real[rows] = returns[rows, newest]
        return real


def find_hooks(kernel: Kernel) -> ReturnHooks:
    """The trampolines that this kernel has."""
    known = [at for name in _TRAMPOLINES if (at := kernel.symbols.get(name)) is not None]
    return ReturnHooks(kernel=kernel, trampolines=np.array(known, np.uint64))
