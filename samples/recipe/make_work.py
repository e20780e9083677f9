"""Make images of guests at work: python3 make_work.py SERIES… --out DIR.

See README.md for what comes out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import disks
import lime
import slices
from initramfs import (
    MODULES,
    add_guest,
    add_locale,
    add_modules,
    module_data,
    module_name,
    module_order,
    skeleton,
)
from kernels import kernel_of
from make_images import guest_programs, missing_packages
from packages import Kernel, PackageError
from qemu import Disk, Guest, GuestError
from site_at_work import Site, member, processes
from storms import LOADS, MEMORY, Work
from system import servers_disk
from within import Stub

if TYPE_CHECKING:
    from collections.abc import Sequence

# A machine that has little of its host's time is slow, and says so; one that stands still for this long has died. That
# NUMA emulation gives CPUs away that are not there it says at boot.
COMPLAINT = re.compile(
    r"(?:BUG: (?!soft)|Oops|WARNING: (?!workqueue cpumask)|general protection fault|"
    r"soft lockup .* for (?:[5-9]\d|\d{3,})s).*"
)
UPTIMES = ("LIME-BEGAN", "LIME-ENDED")
READERS = ("lime", "kcore")  # that run in the guest
COME_AND_GO = ("dummy", "fat", "isofs", "tun", "veth", "vfat", "xor")  # modules that a storm loads and unloads
SECONDS_OF_WORK = (0.2, 2.0)  # between two snapshots
SECONDS_TO_ENTER = 10.0  # for a function
MOST_STEPS = 4  # power of ten: instructions from its entry on


def initramfs(kernel: Kernel, programs: Path, lime_ko: Path | None, *, zram: bool) -> bytes:
    """The guest's userland."""
    tree = skeleton()
    for program in disks.PROGRAMS:
        tree.program(program)
    add_modules(tree, kernel, (*MODULES, "fuse", *(("zram",) * zram)))
    for path in module_order(kernel, COME_AND_GO):
        tree.file(f"modules/more/{module_name(path.name)}.ko", module_data(path))
    add_guest(tree, programs)
    add_locale(tree)
    if lime_ko is not None:
        tree.file("lime.ko", lime_ko.read_bytes())
    return tree.cpio()


def guest_disks(work: Path, memory: int, servers: tuple[Path, Path] | None) -> list[Disk]:
    """Fresh disks for a guest with so many MiB of memory; ``servers``: where to take these and guest programs from."""
    return [
        Disk(disks.blank(work / "lime.disk", memory + 16), "lime"),
        Disk(disks.blank(work / "before.disk", 256), "before"),
        Disk(disks.blank(work / "after.disk", 256), "after"),
        Disk(disks.ext4(work / "ext4.disk", work), "ext4"),
        Disk(disks.blank(work / "swap.disk", 128), "swap"),
        *([Disk(servers_disk(work / "daemons.disk", *servers), "daemons")] if servers is not None else []),
    ]


def write_manifest(path: Path, manifest: dict[str, object]) -> None:
    """Beside an image, when that is finished."""
    path.write_text(json.dumps(manifest, indent=1) + "\n")


def dig(path: Path) -> None:
    """Holes instead of zeros."""
    if path.suffix != ".kdump":
        subprocess.run(["fallocate", "--dig-holes", str(path)], check=False)


def dump(site: Site, path: Path) -> None:
    """The memory of the stopped guest, in the format of the name."""
    if path.suffix == ".kdump":
        site.guest.dump_kdump(path)
    else:
        site.guest.dump_elf(path)


def snapshot(site: Site, number: int, *, packed: bool, after: float | None = None) -> Path:
    """One atomic image: stop, dump, go on. ``after``: seconds the guest runs before it, else by chance."""
    time.sleep(site.chance.uniform(*SECONDS_OF_WORK) if after is None else after)
    moment = time.time()
    site.guest.qmp("stop")
    name = f"{site.work.name}-busy-{number}"
    path = site.folder / f"{name}.{'kdump' if packed else 'elf'}"
    dump(site, path)
    jiffies = site.clock()
    site.guest.qmp("cont")
    dig(path)
    return finish(site, path, method="atomic", moment=moment, jiffies=jiffies)


def within(site: Site, number: int, function: str, *, packed: bool) -> Path | None:
    """One atomic image, stopped some instructions after a CPU entered a function; None if none does."""
    with Stub(site.guest, site.folder) as stub:
        if not stub.run_into(site.functions[function], SECONDS_TO_ENTER):
            return None
        steps = int(10 ** site.chance.uniform(0, MOST_STEPS))
        stub.step(steps)
        path = site.folder / f"{site.work.name}-busy-{number}.{'kdump' if packed else 'elf'}"
        moment = time.time()
        dump(site, path)
        jiffies = site.clock()
    dig(path)
    return finish(site, path, method="atomic", moment=moment, jiffies=jiffies, within=function, steps=steps)


def live(site: Site, number: int, seconds: float, *, packed: bool) -> Path:
    """One image taken while the guest runs, and its twin: an atomic one right after it."""
    name = f"{site.work.name}-live-{seconds:g}s-{number}"
    path, twin = site.folder / f"{name}.lime", site.folder / f"{name}-twin.{'kdump' if packed else 'elf'}"
    iomem = member(site.out / f"{site.work.name}.before.tar", "proc/iomem")
    taken = slices.acquire(site.memory, iomem, seconds, path, site.jiffies)
    moment = time.time()
    site.guest.qmp("stop")
    dump(site, twin)
    stopped = site.clock()
    site.guest.qmp("cont")
    dig(path)
    dig(twin)
    finish(site, twin, method="atomic", moment=moment, jiffies=stopped, twin_of=path.name)
    return finish(site, path, method="slices", moment=taken[0].began, twin=twin.name, live=slices.whole(taken))


def acquired(site: Site, reader: str, number: int, *, packed: bool) -> Path:
    """One image that LiME or a reader of /proc/kcore takes in the guest, and its twin."""
    name = f"{site.work.name}-{reader}-{number}"
    path, twin = site.folder / f"{name}.lime", site.folder / f"{name}-twin.{'kdump' if packed else 'elf'}"
    seen = site.acquire(reader)
    moment = time.time()
    site.guest.qmp("stop")
    dump(site, twin)
    stopped = site.clock()
    site.guest.qmp("cont")
    slices.cut_out(site.folder / "lime.disk", path)
    dig(path)
    dig(twin)
    finish(site, twin, method="atomic", moment=moment, jiffies=stopped, twin_of=path.name)
    began, ended = (float(re.findall(rf"{word} ([0-9.]+)\.", site.guest.text())[-1]) for word in UPTIMES)
    of_guest = {"began": began, "ended": ended, "seconds": round(ended - began, 2)}
    told = {"uptime": of_guest, "columns": ["host", "jiffies", "written"], "progress": seen}
    return finish(site, path, method=reader, moment=seen[0][0], twin=twin.name, live=told)


def finish(site: Site, path: Path, **more: object) -> Path:
    """Put a finished image into its place, with its manifest.

    Raises :class:`GuestError` if the guest has complained: it does not work as it should any more.
    """
    if complaint := COMPLAINT.search(site.guest.text()):
        raise GuestError(f"{path.name} is not kept, the guest says: {complaint[0]}")
    path.chmod(0o644)
    path = path.rename(site.out / path.name)
    write_manifest(path.with_suffix(".json"), site.manifest(**more))
    return path


def images(site: Site, options: argparse.Namespace) -> None:
    """Every image of one load."""
    packed = options.packed
    for _ in range(options.snapshots):
        said(snapshot(site, site.number(), packed=packed), site)
    ran = 0.0
    for seconds in options.apart:
        said(snapshot(site, site.number(), packed=packed, after=seconds - ran), site)
        ran = seconds
    for function in options.within:
        if function not in site.functions:
            print(f"{site.work.name}: no function {function}", file=sys.stderr)
        elif path := within(site, site.number(), function, packed=packed):
            said(path, site)
        else:
            print(f"{site.work.name}: no CPU entered {function}", file=sys.stderr)
    for seconds in options.live:
        said(live(site, site.number(), seconds, packed=packed), site)
    for reader in READERS:
        for _ in range(getattr(options, reader)):
            said(acquired(site, reader, site.number(), packed=packed), site)


def said(path: Path, site: Site) -> None:
    """Tell that an image is finished."""
    print(f"{path.name}: {site.load}", flush=True)


def after(site: Site) -> None:
    """The second record, if the guest still does what it is told."""
    try:
        site.ask("rest", 60)
        time.sleep(2)
        site.record("after")
    except GuestError as error:
        print(f"{site.work.name}: no record after the work: {error}", file=sys.stderr)


def make(work: Work, loads: Sequence[str], options: argparse.Namespace) -> None:
    """All images of one guest."""
    out, build = options.out, options.build
    kernel = kernel_of(*work.package, work.config, build)
    programs = guest_programs(build)
    folder = (build / "work" / work.name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    initrd = folder / "initrd"
    lime_ko = lime.module(kernel, work.package[0], build) if options.lime else None
    initrd.write_bytes(initramfs(kernel, programs, lime_ko, zram=work.zram))
    memory = disks.blank(options.shared / f"{work.name}.memory", work.memory)
    try:
        with Guest(
            folder,
            kernel.vmlinuz,
            initrd,
            work.kernel_cmdline,
            work.cpu,
            work.memory,
            guest_disks(folder, work.memory, (build, programs) if "daemons" in loads else None),
            smp=work.cpus,
            memory_file=memory,
        ) as guest:
            guest.wait_for("WORK-READY", seconds=900)
            site = Site(work, kernel, guest, folder, out, random.Random(work.seed), memory)
            site.resting = processes(site.record("before"))
            site.look(options.within)
            for load in loads:
                site.start(load)
                if options.hide:
                    site.hide()
                images(site, options)
            if not options.hide:  # an edited kernel does not survive the end of an edited process
                after(site)
    finally:
        memory.unlink(missing_ok=True)
        for path in (*folder.glob("*.disk"), initrd):
            path.unlink(missing_ok=True)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Make images of Debian kernels at work.")
    parser.add_argument("series", nargs="+", help="5.10, 6.1, …")
    parser.add_argument("--out", type=Path, default=Path("build/images"))
    parser.add_argument("--build", type=Path, help="where packages and kernels are; default the folder above --out")
    parser.add_argument("--shared", type=Path, default=Path("/dev/shm"), help="where the guest's memory is a file")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--memory", type=int, default=MEMORY, help="MiB")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--loads", default=",".join(LOADS), help="of storms.py, comma separated; several at once: a+b")
    parser.add_argument("--snapshots", type=int, default=2, help="atomic images of each load")
    parser.add_argument("--live", type=float, nargs="*", default=(), help="seconds of images taken while it runs")
    parser.add_argument("--lime", type=int, default=0, help="images that LiME takes in the guest, under each load")
    parser.add_argument("--kcore", type=int, default=0, help="images that are read there through /proc/kcore")
    parser.add_argument("--config", default="", help="of configs/: kernels that are built so, in place of Debian's")
    parser.add_argument("--zram", action="store_true", help="swap to compressed memory instead of a disk")
    parser.add_argument("--hide", action="store_true", help="labelled edits, before the first image; one load only")
    parser.add_argument("--apart", type=float, nargs="*", default=(), help="atomic images at these seconds too")
    parser.add_argument("--within", nargs="*", default=(), help="functions: an atomic image in the middle of each")
    parser.add_argument("--packed", action="store_true", help="kdump instead of ELF")
    options = parser.parse_args(argv)
    if options.config and options.lime:
        parser.error("LiME is built against the headers of Debian's kernels: --lime does not go with --config")
    options.build = options.build or options.out.parent
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Make the images asked for."""
    options = arguments(argv)
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = missing_packages()
    if missing:
        print(f"apt-get install --no-install-recommends {' '.join(missing)}")
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    bad = 0
    for series in options.series:
        work = Work(
            series,
            options.cpus,
            options.seed,
            options.memory,
            lime=bool(options.lime),
            zram=options.zram,
            edited=options.hide,
            config=options.config,
        )
        try:
            make(work, options.loads.split(","), options)
        except (PackageError, GuestError, OSError, subprocess.SubprocessError) as error:
            print(f"{work.name}: {error}", file=sys.stderr)
            bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
