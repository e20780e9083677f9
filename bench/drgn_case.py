"""Prints what a crash engineer asks for first, with drgn: python drgn_case.py IMAGE VMLINUX [log].

The log, and, without the word ``log``, the stack of every task.
"""

from __future__ import annotations

import sys

from drgn import Program
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.printk import get_dmesg


def main(image: str, vmlinux: str, only: str = "") -> None:
    """The log as dmesg prints it, then the stacks."""
    prog = Program()
    prog.set_core_dump(image)
    prog.load_debug_info([vmlinux])
    sys.stdout.buffer.write(get_dmesg(prog))
    for task in () if only else for_each_task(prog):
        sys.stdout.write(f"{task.pid.value_()} {task.comm.string_().decode(errors='replace')}\n")
        try:
            sys.stdout.write(f"{prog.stack_trace(task)}\n")
        except ValueError as error:  # it runs, and the dump has no registers of it
            sys.stdout.write(f"{error}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
