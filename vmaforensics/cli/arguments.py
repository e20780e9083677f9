"""Arguments that several verbs take."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from vmaforensics.progress import unheard

if TYPE_CHECKING:
    from vmaforensics.image.image import Image
    from vmaforensics.image.limits import Limits
    from vmaforensics.progress import Progress


def add_image(parser: argparse.ArgumentParser) -> None:
    """The argument IMAGE, a list of paths, and the options --symbols and --kernel: what :func:`opened` takes."""
    parser.add_argument(
        "image",
        metavar="IMAGE",
        nargs="+",
        type=Path,
        help="raw, ELF core, LiME, AVML or kdump image; of a dump that makedumpfile has split: all its parts",
    )
    _add_kernel(parser)
    add_limits(parser)


def add_one_image(parser: argparse.ArgumentParser) -> None:
    """As :func:`add_image`, for verbs whose IMAGE other arguments follow: one path; --parts has those of the rest."""
    parser.add_argument("image", metavar="IMAGE", nargs=1, type=Path, help="raw, ELF core, LiME, AVML or kdump image")
    parser.add_argument(
        "--parts",
        metavar="FILE",
        nargs="+",
        type=Path,
        default=[],
        help="the other parts of a dump that makedumpfile has split",
    )
    _add_kernel(parser)
    add_limits(parser)


def _add_kernel(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(first=look)
    add_symbols(parser)
    parser.add_argument(
        "--kernel",
        metavar="N",
        type=_number,
        help="of several kernels in memory, left by a reboot or kept for a crash, the N-th found; default: the first "
        "whose list of tasks is whole",
    )


def add_limits(parser: argparse.ArgumentParser) -> None:
    """The options --jobs and --memory: see :func:`limits_of`."""
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=_number,
        help="how much is worked on at a time: threads that look at page tables, processes that scan; results are the "
        "same with any number; default: as many as cores",
    )
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        type=size,
        help="memory that batches of page tables and unpacked pages are kept within, such as 2G; if all takes more, "
        "stderr says so; "
        "default: half of what is free",
    )


def add_symbols(parser: argparse.ArgumentParser) -> None:
    """The option --symbols: ``args.symbols``, a list of paths, None if it is not given."""
    parser.add_argument(
        "--symbols",
        metavar="FILE",
        type=Path,
        action="append",
        help="types or symbols of the image's kernel, for an image without BTF or kallsyms: vmlinux with debugging "
        "information, BTF, System.map, or an ISF; may be given again, for types and symbols that lie in two files",
    )


def add_acquired(parser: argparse.ArgumentParser) -> None:
    """The option --acquired: ``args.acquired``, None if it is not given."""
    parser.add_argument(
        "--acquired",
        choices=("atomic", "live"),
        metavar="HOW",
        help="atomic: the machine stood still; live: it ran while its memory was read, so that records may have been "
        "read at different moments; default: as the clocks in the image say",
    )


def look(args: argparse.Namespace) -> None:
    """Raise what is wrong with the images of ``args`` where their first bytes show it, before anything is loaded."""
    from vmaforensics.image.open import look_at

    for path in args.image:
        look_at(path)


def opened(args: argparse.Namespace, progress: Progress = unheard) -> Image:
    """The image that the arguments of :func:`add_image`, or of :func:`add_one_image`, name."""
    from dataclasses import replace

    from vmaforensics.image.open import open_image

    paths = [*args.image, *getattr(args, "parts", [])]
    image = replace(open_image(paths, progress), symbols=args.symbols, kernel=getattr(args, "kernel", None))
    image.memory.limit(limits_of(args))
    return image


def limits_of(args: argparse.Namespace) -> Limits:
    """What --jobs and --memory say."""
    from vmaforensics.image.limits import Limits, cores

    return Limits(memory=getattr(args, "memory", None), jobs=getattr(args, "jobs", None) or cores())


def add_owner(parser: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """The arguments --pid and --mm, of which one has to be given: ``args.pid`` and ``args.mm``, None for the other.

    The group that they are in is given back, for more ways to say it.
    """
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("--pid", type=int, metavar="N", help="the process")
    whose.add_argument(
        "--mm", type=address, metavar="ADDR", help="the mm_struct at this kernel address, whoever has it"
    )
    return whose


def _number(text: str) -> int:
    """A small number, counted from 1."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 1 << 10:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 1023")
    return int(text)


def address(text: str) -> int:
    """A hexadecimal address, with 0x or without."""
    try:
        value = int(text, 16)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 64:
        raise argparse.ArgumentTypeError(f"{text!r} is not a hexadecimal address of 64 bits")
    return value


def size(text: str) -> int:
    """A number of bytes, with K, M, G or T behind it (KiB, MiB, GiB, TiB) or without."""
    found = re.fullmatch(r"([0-9]{1,19})(?:([KMGT])(?:iB)?)?", text, re.ASCII | re.IGNORECASE)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 500M or 2G")
    return int(found[1]) << 10 * (" KMGT".index(found[2].upper()) if found[2] else 0)


def add_common(parser: argparse.ArgumentParser, *, of_verb: bool) -> None:
    """The options of every verb. They stand before the verb or after it; what stands after it counts."""

    def default(value: object) -> object:
        # What a verb's own parser does not see must not undo what stood before the verb.
        return argparse.SUPPRESS if of_verb else value

    group = parser.add_argument_group("options of every verb")
    group.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=default(0),
        help="more of the report: all evidence; -vv: all records side by side, bytes, checks by hand",
    )
    group.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        default=default(False),
        help="only the verdict and a line per finding; no progress",
    )
    group.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default=default("auto"),
        help="colour; auto: on a terminal, as NO_COLOR and FORCE_COLOR say",
    )
    group.add_argument(
        "--progress",
        choices=("auto", "never", "json"),
        default=default("auto"),
        help="auto: a bar on stderr if that is a terminal; json: a line per stage on stderr",
    )
    group.add_argument(
        "--no-cache",
        action="store_true",
        default=default(False),
        help="search for everything anew, and keep nothing for later runs; `vmaforensics doctor` tells where that is",
    )
    group.add_argument(
        "-d", "--debug", action="store_true", default=default(False), help="log to stderr; full traceback on a bug"
    )


class HelpFormatter(argparse.HelpFormatter):
    """Wraps descriptions of one paragraph; leaves those that are laid out as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)
