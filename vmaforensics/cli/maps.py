"""``vmaforensics maps``: the bytes of ``/proc/PID/maps``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from vmaforensics.cli.each_process import add_arguments, write_each
from vmaforensics.errors import ExitCode

if TYPE_CHECKING:
    import argparse


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "maps",
        help="print /proc/PID/maps, byte for byte",
        description="With --pid, exactly the bytes the machine's own /proc/PID/maps would give; without, the maps of "
        "every process under a header line. Names are printed as the kernel prints them: only newlines are "
        "escaped, so do not send them to a terminal if the machine is not trusted.",
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the maps of the processes asked for, or of all."""
    from vmaforensics.proc.maps import maps_lines

    write_each(args, (), lambda kernel, views: partial(maps_lines, kernel, views))
    return ExitCode.OK
