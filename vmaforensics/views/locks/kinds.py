"""Kinds of locks, and how it is known that a task waits for one."""

from __future__ import annotations

from enum import IntEnum


class LockKind(IntEnum):
    """What a task can wait for."""

    MUTEX = 0
    RWSEM = 1
    SEMAPHORE = 2
    RT_MUTEX = 3
    RT_SPINLOCK = 4  # of PREEMPT_RT, where it sleeps
    COMPLETION = 5
    VMA = 6  # that those who read a VMA without the mmap lock leave it (vm_refcnt)
    SPINLOCK = 7

    @property
    def text(self) -> str:
        """The C type, or what it is."""
        return ("mutex", "rw_semaphore", "semaphore", "rt_mutex", "rt_spinlock", "completion", "VMA lock", "spinlock")[
            self
        ]

    @property
    def struct(self) -> str:
        """The structure at the lock's address."""
        return (
            "mutex",
            "rw_semaphore",
            "semaphore",
            "rt_mutex",
            "spinlock",
            "completion",
            "vm_area_struct",
            "spinlock",
        )[self]


class Wants(IntEnum):
    """What for."""

    IT = 0
    READ = 1
    WRITE = 2

    @property
    def text(self) -> str:
        """The wish in words; empty where there is only one."""
        return ("", "read", "write")[self]


class Proof(IntEnum):
    """How the lock is known that a task waits for."""

    UNKNOWN = 0  # it is not
    HEAD = 1  # the waiter on the task's stack is on the lock's own list
    FIRST_WAITER = 2  # the lock's first_waiter is on the list that the waiter is on
    BLOCKED_ON = 3  # the task says so: pi_blocked_on, with a waiter that names task and lock
    OWN = 4  # a writer that has the lock's rt_mutex and waits for its readers to leave
    COUNTED = 5  # vma_writer_wait of the mm names the task, vm_refcnt says that a writer waits
    REGISTER = 6  # a register of the code that spins leads to a locked word: likely

    @property
    def text(self) -> str:
        """The way in words."""
        return (
            "not found",
            "its waiter is on the lock's list",
            "its waiter is on the list of the lock's first waiter",
            "pi_blocked_on",
            "it has the lock's rt_mutex and waits for readers to leave",
            "vma_writer_wait",
            "a register of the code that spins leads to it: likely",
        )[self]
