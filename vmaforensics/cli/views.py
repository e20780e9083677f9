"""``vmaforensics views``: the memory map of one process, every record beside the others."""

from __future__ import annotations

import argparse

from vmaforensics.cli.arguments import add_image, add_owner, address, opened
from vmaforensics.cli.output import add_output, output
from vmaforensics.errors import ExitCode

_DESCRIPTION = """\
One row per region, one column per record the kernel keeps of it, with the address of each record: the word of
the list or tree that leads to the VMA, the first page-table entry (a physical address), the slab's struct page,
the node in the file's i_mmap, the link to the anon_vma, and what addresses the kernel remembers there. VMAs that
only the slab or a reverse map knows have rows too, and so has memory that the page tables map outside every VMA.

  no   the record was read whole and does not have the region, or has it otherwise
  ?    it could not be read there
  -    it need not have it
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "views",
        help="show one process's regions in every record, side by side",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_image(parser)
    add_owner(parser)
    parser.add_argument(
        "--at",
        type=address,
        metavar="ADDR",
        help="decode the VMAs that cover this user address, or the vm_area_struct at this kernel address, and "
        "show the way from the task to the pages",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read every view, render one process."""
    import msgspec

    from vmaforensics.cli.progress import watched
    from vmaforensics.compare.details import details_at
    from vmaforensics.compare.records import records_of_mm, records_of_process
    from vmaforensics.compare.records_text import render
    from vmaforensics.kernel.find import find_kernel
    from vmaforensics.views.gather import gather_views

    with output(args.output, force=args.force) as stream:
        with watched(args) as say:
            image = opened(args, say)
            kernel = find_kernel(image, say)
            views = gather_views(kernel, image.cpus, progress=say)
        records = records_of_process(views, args.pid) if args.mm is None else records_of_mm(views, args.mm)
        document = records.document()
        if args.at is not None:
            details = details_at(kernel, views, records, args.at)
            document = msgspec.structs.replace(document, at=hex(args.at), details=details)
        if args.format == "json":
            stream.write(msgspec.json.encode(document) + b"\n")
        else:
            stream.write(render(document).encode())
    return ExitCode.OK
