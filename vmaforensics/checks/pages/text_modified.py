"""TEXT-MODIFIED: code in memory is not the code of its file.

*Severity:* high; medium, with medium confidence, where the process has or had the area writable; low, with low
confidence, where nothing but breakpoints differ and a debugger is attached, or the list of registered uprobes is not
in the image.

*Compared:* for each page present in an executable area of a regular file, the frame of its entry with the frame that
the file's page cache has at that index, whatever `struct page` says; where these are two frames, their contents. Told
are the first byte that differs and how many do. A byte at the place of a registered uprobe (`uprobes_tree`: inode and
offset) that is an `int3`, or within the five bytes of a call that x86 may put there (7.x), is no difference.

*Guaranteed by:* `filemap_map_pages` (mm/filemap.c) maps pages of the page cache; only a write makes a copy
(`wp_page_copy`, `do_cow_fault`, mm/memory.c). `mprotect_fixup` (mm/mprotect.c) sets VM_ACCOUNT when a private area
becomes writable, and it stays: an area without it was never writable, so that its pages can have been written only from
outside (`ptrace`, `/proc/PID/mem`) or by the kernel.

*Contents:* needed of both pages. They are user memory, which excerpts and `makedumpfile -d 31` leave out: such pages
are counted under *Not assessed*, as are those that the page cache no longer has.
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import BUG, SMEAR, Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="TEXT-MODIFIED",
    title="code in memory is not the code of its file",
    severity=Severity.HIGH,
    why="Code is mapped from the page cache. A page in its place that holds other bytes was written to in memory "
    "alone: a hook, a patch or a breakpoint that no look at the file on the disk will show.",
    benign=(
        "a debugger that set breakpoints, and may have left",
        "text relocations, and programs that patch their own code: these had the area writable",
        "the file was written to after the page had been copied",
        SMEAR,
        BUG,
    ),
    attack=("T1055",),
    compares="the frame behind each page of an executable area of a file with the frame in the file's page cache, and "
    "where they are two, their contents; bytes at a registered uprobe aside",
    views=(View.PAGE_TABLES, View.PAGES, View.FILES),
    transient="none: a uprobe is in its tree before the breakpoint is written, and after it has been taken out",
    by_hand=(hand.VTOP, "crash: struct address_space.i_pages MAPPING", "crash: rd -p PHYSICAL 512  # of both frames"),
    steps=("area", "file", "memory", "entry", "frame"),
    part=Part.CAUSE,
    rank=160,
)
