"""The table of images."""

from __future__ import annotations

from dataclasses import dataclass

from deaths import DEATHS, Death

FOUR_LEVELS = "max,la57=off"
FIVE_LEVELS = "max"
# Ticks are lost where the host has little time for a guest; the kernel would take its timer for a broken one.
COMMON = "console=ttyS0 panic=10 no_timer_check secretmem.enable=1"
OUTPUTS = ("raw", "elf", "kdump")


@dataclass(frozen=True)
class Bench:
    """The size of a measuring guest."""

    forks: int = 400
    areas: int = 30000
    mebibytes: int = 300
    shared: int = 0  # MiB that every process maps


@dataclass(frozen=True)
class Image:
    """One image to make."""

    name: str
    suite: str
    package: str = "linux-image-amd64"  # or a regular expression, with ^ first
    cpu: str = FOUR_LEVELS
    memory: int = 512
    cmdline: str = ""
    outputs: tuple[str, ...] = OUTPUTS
    vmcoreinfo: bool = True
    crash: bool = False  # a crash kernel saves the memory, not QEMU
    death: str = ""  # of deaths.py; with ``crash`` and without one, truth crashes the kernel by sysrq
    system: bool = False  # a Debian with systemd and containers, in place of the initramfs
    traced: bool = False  # tracers, kprobes, BPF programs and a live patch have a hand in its code
    config: str = ""  # of configs/: the package is one of sources, and is built so
    more: tuple[str, ...] = ()  # roles of guest/kept.c, guest/holders.c and guest/machines.c
    modules: tuple[str, ...] = ()  # besides those of initramfs.py
    devices: tuple[str, ...] = ()  # further arguments of QEMU
    bench: Bench | None = None

    @property
    def dies(self) -> Death | None:
        """How it dies, if it does."""
        return DEATHS[self.death] if self.death else None

    @property
    def kernel_cmdline(self) -> str:
        """The whole kernel command line."""
        words = [COMMON, self.cmdline]
        if self.more:
            words += [f"vma_more={','.join(self.more)}"]
        if self.crash:
            words += ["crashkernel=256M", "vma_crash_kernel=1"]
        if self.dies is not None:
            words += [self.dies.cmdline, "" if self.crash else "panic=0"]
            words += [f"vma_victim={self.dies.role}" if self.dies.role else ""]
        elif self.crash:
            words += ["vma_mode=crash"]
        if self.traced:
            words += ["vma_traced=1"]
        if self.system:
            words += ["vma_mode=system", "systemd.unit=multi-user.target"]
        if self.bench:
            words += ["vma_mode=bench", f"vma_forks={self.bench.forks}"]
            words += [f"vma_areas={self.bench.areas}"]
            words += [f"vma_mib={self.bench.mebibytes}"]
            words += [f"vma_shared={self.bench.shared}"] if self.bench.shared else []
        return " ".join(word for word in words if word)


def backport(series: str, flavour: str = "") -> str:
    """A regular expression for the newest kernel of a series in backports; ``flavour``: "rt-", "cloud-"."""
    return rf"^linux-image-{series.replace('.', '[.]')}[.0-9]*[+]deb\d+-{flavour}amd64$"


def dying(death: str, *series: str, crash: bool = False) -> tuple[Image, ...]:
    """Images of kernels of these series that die in a way of deaths.py; ``crash``: saved by a crash kernel."""
    ending = "-kexec" if crash else ""
    memory, outputs = (1024, ()) if crash else (512, ("elf",))
    return tuple(
        Image(
            f"debian-{entry}-{death}{ending}",
            *PACKAGES[entry],
            memory=memory,
            outputs=outputs,
            crash=crash,
            death=death,
        )
        for entry in series
    )


# What a distribution's kernel is told when it is booted; several at once, so that few guests show them all.
BOOTED = {
    "debug": {
        "memory": 512,
        "cmdline": "slub_debug=FZPU slab_nomerge init_on_free=1 init_on_alloc=1 page_poison=1 kfence.sample_interval=2 "
        "pti=on mem=400M",
    },
    "bare": {
        "memory": 4096,
        "cmdline": "mitigations=off nopti nokaslr norandmaps nosmp cgroup_disable=memory vsyscall=none "
        "transparent_hugepage=always hugepagesz=1G hugepages=1 hugetlb_free_vmemmap=on memmap=64M!512M",
        "more": ("gibibyte", "dax", "reserved"),
        "modules": ("nd_e820", "nd_pmem"),
    },
    "numa": {
        "memory": 768,
        "cmdline": "numa=fake=4 maxcpus=1 memhp_default_state=online pti=on vma_zram=1",
        "more": ("reserved",),
        "modules": ("zram",),
        "devices": (
            *("-m", "768,slots=4,maxmem=16G"),
            *("-object", "memory-backend-ram,id=dimm0,size=128M"),
            *("-device", "pc-dimm,id=d0,memdev=dimm0,addr=0x140000000"),
            *("-object", "memory-backend-ram,id=dimm1,size=128M"),
            *("-device", "pc-dimm,id=d1,memdev=dimm1,addr=0x1c8000000"),
        ),
    },
}


def booted(*series: str) -> tuple[Image, ...]:
    """Images of kernels of these series, each booted in every way of BOOTED."""
    return tuple(
        Image(f"debian-{entry}-{way}", *PACKAGES[entry], outputs=("elf",), **what)  # type: ignore[arg-type]
        for entry in series
        for way, what in BOOTED.items()
    )


# Kernels that are built here; those that have been booted so far are in docs/kernels.md. A name says series and
# configuration: built-6.12-lean-clang-randstruct.
SOURCES = {
    "5.10": ("bullseye", "linux-source-5.10"),
    "6.1": ("bookworm", "linux-source-6.1"),
    "6.12": ("trixie", "linux-source-6.12"),
    "7.3": ("trixie-backports", "linux-source-7.3"),
}
CONFIGS = (
    *("plain", "tiny", "locks", "kasan", "clang", "randstruct", "numa"),
    *("lean-kasan-locks-numa", "lean-clang-randstruct-nomemcg", "lean-tiny-locks", "lean-plain-tiny"),
)


def memory_of(config: str, least: int) -> int:
    """MiB for a guest of this configuration that would do with ``least``: an eighth is KASAN's, and what it keeps."""
    return 2 * least if "kasan" in config else least


def cmdline_of(config: str) -> str:
    """What turns on, when such a kernel is booted, what it can do."""
    parts = config.split("-")
    return " ".join(
        [
            *["numa=fake=4"] * ("numa" in parts),
            *["page_owner=on page_table_check=on init_on_free=1"] * ("locks" in parts),
        ]
    )


BUILT = tuple(
    Image(
        f"built-{series}-{config}",
        *SOURCES[series],
        cmdline=cmdline_of(config),
        memory=memory_of(config, 512),
        outputs=("elf",),
        config=config,
    )
    for series in SOURCES
    for config in CONFIGS
)


PACKAGES = {
    "5.10": ("bullseye", "linux-image-amd64"),
    "6.1": ("bookworm", "linux-image-amd64"),
    "6.12": ("trixie", "linux-image-amd64"),
    "7.3": ("trixie-backports", backport("7.3")),
}
ALL = tuple(PACKAGES)
WITH_MAPLE_TREES = ALL[1:]
WITH_CPU_SLABS = ALL[:-1]
RT = "linux-image-rt-amd64"
CLOUD = "linux-image-cloud-amd64"
KEPT = ("kept", "debugged", "patched", "held")

IMAGES = (
    Image("debian-6.1", "bookworm"),
    Image("debian-5.10", "bullseye"),
    Image("debian-6.12", "trixie"),
    Image("debian-7.2", "sid"),
    Image("debian-7.3", "trixie-backports", backport("7.3")),
    Image("debian-6.1-la57", "bookworm", cpu=FIVE_LEVELS),
    Image("debian-6.1-crash", "bookworm", memory=1024, outputs=(), crash=True),
    Image("debian-6.16", "trixie-backports", backport("6.16")),
    Image("debian-6.12-rt", "trixie", RT),
    Image("debian-6.1-rt", "bookworm", RT),
    Image("debian-6.1-split", "bookworm", memory=5120, outputs=("elf",)),
    Image("debian-6.1-vsyscall", "bookworm", cmdline="vsyscall=emulate"),
    Image("debian-6.1-noinfo", "bookworm", vmcoreinfo=False, outputs=("raw",)),
    Image("debian-5.10-crash", "bullseye", memory=1024, outputs=(), crash=True),
    Image("debian-6.12-la57", "trixie", cpu=FIVE_LEVELS),
    Image("debian-7.3-la57", "trixie-backports", backport("7.3"), cpu=FIVE_LEVELS),
    Image("debian-6.18", "trixie-backports", backport("6.18")),
    Image("debian-6.17", "trixie-backports", backport("6.17")),
    Image("debian-6.1-pti", "bookworm", cmdline="pti=on", outputs=("elf",)),
    Image("debian-5.10-kept", "bullseye", outputs=("elf",), more=KEPT),
    Image("debian-6.1-kept", "bookworm", outputs=("elf",), more=KEPT),
    Image("debian-6.12-kept", "trixie", outputs=("elf",), more=KEPT),
    Image("debian-7.3-kept", "trixie-backports", backport("7.3"), outputs=("elf",), more=KEPT),
    *(Image(f"debian-{entry}-holders", *PACKAGES[entry], outputs=("elf",), more=("holders",)) for entry in ALL),
    *(Image(f"debian-{entry}-traced", *PACKAGES[entry], memory=1536, outputs=("elf",), traced=True) for entry in ALL),
    *booted(*ALL),
    *(
        Image(f"debian-{entry}-system", *PACKAGES[entry], memory=768, outputs=("elf",), modules=("btrfs",), system=True)
        for entry in ALL
    ),
    Image("debian-5.10-rt", "bullseye", RT, outputs=("elf",)),
    Image("debian-7.3-rt", "trixie-backports", backport("7.3", "rt-"), outputs=("elf",)),
    Image("debian-5.10-cloud", "bullseye", CLOUD, outputs=("elf",)),
    Image("debian-6.1-cloud", "bookworm", CLOUD, outputs=("elf",)),
    Image("debian-6.12-cloud", "trixie", CLOUD, outputs=("elf",)),
    Image("debian-7.3-cloud", "trixie-backports", backport("7.3", "cloud-"), outputs=("elf",)),
    Image("debian-6.12-crash", "trixie", memory=1024, outputs=(), crash=True),
    Image("debian-7.3-crash", "trixie-backports", backport("7.3"), memory=1024, outputs=(), crash=True),
    *dying("nmi", *ALL),
    *dying("oom", *ALL),
    *dying("rss", *ALL),
    *dying("pte-cleared", *ALL),
    *dying("pte-flipped", *ALL),
    *dying("mapcount", "7.3"),
    *dying("map-count", "6.1", "6.12"),
    *dying("list", *ALL),
    *dying("maple-slot", *WITH_MAPLE_TREES),
    *dying("page-mapping", *ALL),
    *dying("vma-mm", *ALL),
    *dying("vma-file", *ALL),
    *dying("free-pointer", *WITH_CPU_SLABS),
    *dying("hung", *ALL),
    *dying("deadlock", *ALL),
    Image("debian-6.12-rt-hung", "trixie", RT, outputs=("elf",), death="hung"),
    *dying("softlockup", *ALL),
    *dying("nmi", *ALL, crash=True),
    *dying("oom", *ALL, crash=True),
    *dying("list", *ALL, crash=True),
)


def bench_images(scale: float = 1.0, mebibytes: int = 300) -> tuple[Image, ...]:
    """The images for measuring; SCALE multiplies processes and areas."""
    size = Bench(forks=round(400 * scale), areas=round(30000 * scale), mebibytes=mebibytes)
    ending = "" if scale == 1.0 else f"-x{scale:g}"
    memory = 2048 if scale <= 2 else 3072
    return (
        Image(
            f"bench-2g{ending}",
            "trixie",
            memory=memory,
            outputs=("elf",),
            bench=size,
        ),
        Image(
            f"bench-2g-5.10{ending}",
            "bullseye",
            memory=memory,
            outputs=("elf",),
            bench=size,
        ),
        *(touched_image(gibibytes) for gibibytes in (1, 2, 4, 8)),
        *(shared_image(processes) for processes in (40, 400)),
        Image(
            f"{touched_image(2).name}-kdump",
            "trixie",
            memory=touched_image(2).memory,
            outputs=("kdump",),
            bench=touched_image(2).bench,
        ),
        large_image(128),
    )


def touched_image(gibibytes: int) -> Image:
    """An image for measuring page tables: few areas, and as much memory touched, in pages of 4 KiB."""
    # The children touch four fifths of what they are told; see guest/bench.c.
    size = Bench(forks=20, areas=1000, mebibytes=gibibytes * 1280)
    return Image(f"bench-touched-{gibibytes}g", "trixie", memory=gibibytes * 1024 + 640, outputs=("elf",), bench=size)


def shared_image(processes: int) -> Image:
    """An image for measuring page tables: as many processes map one GiB of shared memory, in pages of 4 KiB."""
    # Each has 2 MiB of page tables for it, which is 262,144 entries.
    size = Bench(forks=processes, areas=1000, mebibytes=100, shared=1024)
    memory = 1024 + 3 * processes + 640
    return Image(f"bench-shared-{processes}", "trixie", memory=memory, outputs=("elf",), bench=size)


def large_image(gibibytes: int) -> Image:
    """An image for measuring what the size of a machine costs: nearly all of its RAM was never touched, and what its
    programs do is what those of bench-touched-2g do."""
    size, outputs = touched_image(2).bench, ("kdump", "ram")
    return Image(f"bench-{gibibytes}g", "trixie", memory=gibibytes * 1024, outputs=outputs, bench=size)
