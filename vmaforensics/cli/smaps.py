"""``vmaforensics smaps``: the bytes of ``/proc/PID/smaps``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from vmaforensics.cli.each_process import add_arguments, write_each
from vmaforensics.errors import ExitCode
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "smaps",
        help="print /proc/PID/smaps",
        description="With --pid, what the machine's own /proc/PID/smaps would give; without, that of every process "
        "under a header line. Where page tables or struct pages of a VMA are not in the image, the lines that add "
        "them up are left out, and a note on stderr says of how many VMAs. Names are printed as the kernel prints "
        "them: only newlines are escaped, so do not send them to a terminal if the machine is not trusted.",
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the smaps of the processes asked for, or of all."""
    from vmaforensics.proc.smaps import SmapsPrinter

    unknown: dict[int, int] = {}

    def printer(kernel: Kernel, views: Views) -> Callable[[int], Iterable[bytes]]:
        smaps = SmapsPrinter(kernel, views)

        def lines(mm: int) -> Iterable[bytes]:
            unknown[mm] = smaps.unknown(mm)
            return smaps.lines(mm)

        return lines

    write_each(args, ("page-tables",), printer)
    count = sum(unknown.values())
    if count:
        sys.stderr.write(
            f"vmaforensics: figures of {counted(count, 'VMA')} were left out: page tables or struct pages of theirs "
            "are not in the image\n"
        )
    return ExitCode.OK
