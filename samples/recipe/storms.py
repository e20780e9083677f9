"""Guests at work: what they run, what is done to them, and which images of them are made.

python3 make_work.py --list
"""

from __future__ import annotations

from dataclasses import dataclass

from images import COMMON, IMAGES, SOURCES, Image, cmdline_of

MEMORY = 256  # MiB
# Of the roles of guest/awkward.c those that fit into the memory and leave some to work with.
RESTING = (
    *("areas", "shared", "swapped", "low", "softdirty", "names", "offsets", "kernel", "threads", "headless", "forks"),
    *("vfork", "share", "states", "deleter", "vdso", "unmapped", "idle", "quiet"),
)
LOADS = {
    "births": ("forks", "execs", "thrds"),
    "areas": ("unmap", "moves", "looks"),
    "memory": ("cache", "swap", "pages"),
    "huge": ("huge", "ksm", "pages", "unmap"),
    "servers": ("jit", "pool", "boxes", "looks"),
    "pressure": ("group", "swap", "ksm", "huge", "pages"),
    "daemons": ("daemons",),
    "answers": ("advic", "uffd", "other", "looks"),
    "traces": ("trace", "probe", "clone", "execs"),
    "objects": ("rings", "memfd", "hugtl", "fuse"),
    "ends": ("ooms", "cores", "stops", "swap"),
    "machine": ("cpus", "modul", "mount", "swpof", "seccm"),
    "apart": ("fails", "parts", "names"),
    "buffers": ("buffs", "locks", "looks"),
    "marks": ("guard", "times"),
    "all": ("forks", "execs", "unmap", "moves", "cache", "swap", "huge", "ksm", "thrds", "looks"),
}


@dataclass(frozen=True)
class Work:
    """A guest at work."""

    series: str  # or the name of one of IMAGES without "debian-": 6.1-rt, 6.1-la57
    cpus: int = 2
    seed: int = 1
    memory: int = MEMORY
    lime: bool = False  # LiME will run in it
    zram: bool = False  # it swaps to compressed memory
    edited: bool = False  # words of it are changed
    config: str = ""  # of configs/: the kernel is built so

    @property
    def name(self) -> str:
        """What the names of its images begin with."""
        kernel = f"built-{self.series}-{self.config}" if self.config else f"debian-{self.series}"
        return f"{kernel}-work{self.seed}"

    @property
    def package(self) -> tuple[str, str]:
        """Suite, and package or a regular expression."""
        return SOURCES[self.series] if self.config else (self.stock.suite, self.stock.package)

    @property
    def stock(self) -> Image:
        """The image at rest of such a guest."""
        return next(image for image in IMAGES if image.name == f"debian-{self.series}")

    @property
    def cpu(self) -> str:
        """QEMU's name of the processor."""
        return self.stock.cpu

    @property
    def kernel_cmdline(self) -> str:
        """The whole kernel command line."""
        # LiME dies of the first page of secret memory, which no kernel address leads to any more.
        ways = "secretmem.enable=0 " * self.lime + "vma_zram=1 " * self.zram
        # Who ages pages by generations walks all VMAs, and for ever where one is shorter than its range in the index.
        ways += "vma_one_lru=1 " * self.edited
        ways += f"{cmdline_of(self.config) if self.config else self.stock.cmdline} "
        return f"{COMMON} {ways}vma_mode=work vma_roles={','.join(RESTING)}"
