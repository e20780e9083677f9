"""Prints pid, start and end of every area of every process, with drgn: python drgn_walk.py IMAGE VMLINUX."""

from __future__ import annotations

import sys

from drgn import Program
from drgn.helpers.linux.mm import for_each_vma
from drgn.helpers.linux.pid import for_each_task


def main(image: str, vmlinux: str) -> None:
    """Walk the processes in the order of their pids."""
    prog = Program()
    prog.set_core_dump(image)
    prog.load_debug_info([vmlinux])
    for task in for_each_task(prog):
        pid = task.pid.value_()
        if pid != task.tgid.value_() or not task.mm:
            continue
        for vma in for_each_vma(task.mm):
            sys.stdout.write(f"{pid} {vma.vm_start.value_():x}-{vma.vm_end.value_():x}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
