"""``vmaforensics isf``: the kernel's types and symbols as a file for volatility3."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.cli.arguments import add_image, opened
from vmaforensics.cli.output import add_output, output
from vmaforensics.errors import ExitCode

if TYPE_CHECKING:
    import argparse


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "isf",
        help="write the kernel's types and symbols for volatility3",
        description="Make a symbol file (ISF 6.2.0) from the BTF and kallsyms in the image. It fits any image of the "
        "same kernel; put it into a folder called linux under a folder given to volatility3 with -s. The end of "
        "FILE says how it is packed: .json.xz, .json.gz or .json, which is also what stdout gets.",
    )
    add_image(parser)
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make the file."""
    from vmaforensics.cli.progress import watched
    from vmaforensics.export.isf.document import isf_document, suffix_of, write_isf
    from vmaforensics.kernel.find import find_kernel

    suffix = ".json" if args.output is None else suffix_of(args.output)
    with output(args.output, force=args.force) as stream:
        with watched(args) as say:
            document = isf_document(find_kernel(opened(args, say), say))
        write_isf(document, stream, suffix)
    return ExitCode.OK
