"""``vmaforensics what``: what is at this address?"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from vmaforensics.cli.arguments import add_one_image, opened
from vmaforensics.cli.output import add_output, output
from vmaforensics.errors import ExitCode, UsageError

if TYPE_CHECKING:
    import argparse

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.tasks import Tasks

_ADDRESS: Final = re.compile(r"(0x)?(?P<value>[0-9a-fA-F]{1,16})$")
_SYMBOL: Final = re.compile(r"(?P<name>[A-Za-z_.][\w.$]*)(\+(?P<offset>(0x)?[0-9a-fA-F]{1,16}))?$")


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "what",
        help="say what an address is: which object, which member, whose",
        description="What each address leads to, by the kernel's own allocator, page tables, symbols and types: "
        "an object of any slab cache with its member and whether it is allocated, a stack, a page and its struct page, "
        "code or data, vmalloc and per-CPU memory, the VMA of a user address; or that it is none: poison, an error, "
        "text, or an address one byte off an object. An address is hexadecimal, with 0x or without, or a symbol, as in "
        "init_task+0x890.",
    )
    add_one_image(parser)
    parser.add_argument("address", metavar="ADDRESS", nargs="+", help="hexadecimal, or a symbol")
    parser.add_argument("--pid", type=int, metavar="N", help="whose user addresses they are; without it, anybody's")
    parser.add_argument("--physical", action="store_true", help="the addresses are physical")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what the addresses lead to."""
    import msgspec

    from vmaforensics.cli.progress import watched
    from vmaforensics.crash.what_document import render_what, what_document
    from vmaforensics.kernel.find import find_kernel
    from vmaforensics.views.objects.surroundings import read_surroundings
    from vmaforensics.views.problems import ProblemLog
    from vmaforensics.views.processes.tasks import walk_tasks

    with output(args.output, force=args.force) as stream:
        with watched(args) as say:
            kernel = find_kernel(opened(args, say), say)
            asked = {text: _value(kernel, text) for text in args.address}
            if args.physical:
                base = kernel.arch.direct_map(kernel.variable)
                asked = {text: (base + value) % (1 << 64) for text, value in asked.items()}
            say("tasks")
            tasks = walk_tasks(kernel, ProblemLog())
            document = what_document(read_surroundings(kernel, tasks), asked, _mm_of(tasks, args.pid))
        if args.format == "json":
            stream.write(msgspec.json.encode(document) + b"\n")
        else:
            stream.write(render_what(document).encode())
    return ExitCode.OK


def _value(kernel: Kernel, text: str) -> int:
    """The address that an argument names. Raises :class:`UsageError` where it names none."""
    if (number := _ADDRESS.match(text)) is not None:
        return int(number["value"], 16)
    symbol = _SYMBOL.match(text)
    at = None if symbol is None else kernel.symbols.get(symbol["name"])
    if symbol is None or at is None:
        raise UsageError(f"{text!r} is no hexadecimal address of 64 bits, and the kernel has no such symbol")
    return (at + int(symbol["offset"] or "0", 16)) % (1 << 64)


def _mm_of(tasks: Tasks, pid: int | None) -> int | None:
    """The mm of a process; None where none was asked for. Raises :class:`UsageError` where there is no such process."""
    if pid is None:
        return None
    rows = (tasks.pid == pid).nonzero()[0]
    if not len(rows):
        raise UsageError(f"no process has the pid {pid}")
    return int(tasks.mm[rows[0]]) or int(tasks.active_mm[rows[0]])
