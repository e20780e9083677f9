"""Make memory images of Debian kernels: python3 make_images.py [NAME…] --out DIR.

See README.md for what comes out.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import disks
import lime
import truth
from deaths import KASLR, PANICKED
from images import BUILT, IMAGES, Image, bench_images
from initramfs import (
    GUEST,
    MODULES,
    Tree,
    add_guest,
    add_locale,
    add_modules,
    add_python,
    skeleton,
)
from kernels import kernel_of
from outputs import console_value, crash_dumps, dump, save_truth
from packages import Kernel, PackageError
from qemu import Disk, Guest, GuestError
from system import root_disk

if TYPE_CHECKING:
    from collections.abc import Sequence

TOOLS = {
    "apt-get": "apt",
    "busybox": "busybox-static",
    "cc": "gcc libc6-dev",
    "depmod": "kmod",
    "dpkg": "dpkg",
    "fallocate": "util-linux",
    "kexec": "kexec-tools",
    "make": "make",
    "makedumpfile": "makedumpfile",
    "mkfs.ext4": "e2fsprogs",
    "mksquashfs": "squashfs-tools",
    "qemu-system-x86_64": "qemu-system-x86",
    "zstd": "zstd",
}
MOST_LINES = 400  # of the console in a manifest
CRASH_MODULES = ("virtio_pci", "virtio_blk")


def missing_packages() -> list[str]:
    """The Debian packages of the tools that are not there."""
    missing = [package for tool, package in TOOLS.items() if not shutil.which(tool)]
    return [name for entry in missing for name in entry.split()]


def guest_programs(build: Path) -> Path:
    """Compile what runs in the guest."""
    programs = (build / "guest").resolve()
    programs.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["make", "-s", "-C", str(GUEST), f"OUT={programs}"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return programs


def crash_initramfs(kernel: Kernel) -> bytes:
    """What runs after a crash: makedumpfile to disks."""
    tree = skeleton()
    tree.file("init", (GUEST / "init-crash").read_bytes(), 0o755)
    tree.program("/usr/bin/makedumpfile")
    add_modules(tree, kernel, CRASH_MODULES)
    return tree.cpio()


def add_tracing(tree: Tree, image: Image, kernel: Kernel, build: Path) -> None:
    """bpftrace of the host, and a live patch for this kernel."""
    tree.program("/usr/bin/bpftrace")
    tree.file("traced", (GUEST / "traced").read_bytes())
    try:
        tree.file("modules-out/livepatch.ko", lime.live_patch(kernel, image.suite, build).read_bytes())
    except (PackageError, subprocess.SubprocessError) as error:
        print(f"{image.name}: without a live patch: {error}")


def initramfs(image: Image, kernel: Kernel, programs: Path, build: Path) -> bytes:
    """The guest's userland."""
    tree: Tree = skeleton()
    for program in disks.PROGRAMS:
        tree.program(program)
    add_modules(tree, kernel, (*MODULES, *image.modules))
    add_guest(tree, programs)
    if image.bench is None:
        add_locale(tree)
        add_python(tree)
    if image.traced:
        add_tracing(tree, image, kernel, build)
    if image.crash:
        tree.program("/usr/sbin/kexec")
        tree.file("crash/vmlinuz", kernel.vmlinuz.read_bytes())
        tree.file("crash/initrd", crash_initramfs(kernel))
    return tree.cpio()


def sha256(path: Path) -> str:
    """The digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def guest_disks(image: Image, build: Path, programs: Path, work: Path) -> list[Disk]:
    """Fresh disks for a guest."""
    found = [Disk(disks.blank(work / "truth.disk", 256), "truth")]
    if image.system:
        found.append(Disk(root_disk(work / "root.disk", build, programs), "root"))
        found.append(Disk(disks.blank(work / "btrfs.disk", 256), "btrfs"))
        return found
    if image.bench is None:
        found.append(Disk(disks.ext4(work / "ext4.disk", work), "ext4"))
        found.append(Disk(disks.blank(work / "swap.disk", 64), "swap"))
    if image.crash:
        for level in (31, 1):
            path = disks.blank(work / f"dump{level}.disk", image.memory * 2)
            found.append(Disk(path, f"dump{level}"))
    return found


def die(image: Image, guest: Guest, work: Path) -> dict[str, object]:
    """Make a guest whose record is complete die as the image says; what was done, for the manifest."""
    dies = image.dies
    assert dies is not None
    time.sleep(1)
    changes = []
    if dies.edit:
        import edits  # needs the package and NumPy, as nothing else of the recipe does

        guest.qmp("stop")
        before = work / "before.elf"
        guest.dump_elf(before)
        pid = int(console_value(guest.text(), "TRUTH-AWAITS"))
        changes = [change.label() for change in edits.apply(dies.edit, work / "memory", before, pid)]
        before.unlink()
        guest.qmp("cont")
    if dies.nmi:
        guest.qmp("inject-nmi")
    if dies.role:
        guest.tell()
    guest.wait_for(dies.says, PANICKED, "CRASH-DONE", seconds=90)
    if image.crash:
        guest.wait_for("CRASH-DONE", seconds=600)
        guest.wait_exit(60)
    else:
        if dies.panics:
            guest.wait_for(PANICKED, KASLR, seconds=60)
        time.sleep(2)
        guest.qmp("stop")
    if dies.says not in guest.text():
        print(f"{image.name}: did not say {dies.says!r}")
    lines = guest.text().splitlines()
    first = next(number for number, line in enumerate(lines) if "TRUTH-READY" in line)
    said = list(itertools.takewhile(lambda line: "] Linux version " not in line, lines[first + 1 :]))
    return {"way": image.death, "label": dies.label, "edits": changes, "console": said[:MOST_LINES]}


def make(image: Image, out: Path, build: Path) -> None:
    """Make one image with its truth and its manifest."""
    started = time.monotonic()
    kernel = kernel_of(image.suite, image.package, image.config, build)
    programs = guest_programs(build)
    work = (build / "work" / image.name).resolve()
    work.mkdir(parents=True, exist_ok=True)
    initrd = work / "initrd"
    initrd.write_bytes(initramfs(image, kernel, programs, build))
    base = work / image.name  # moved to OUT when all is there
    with Guest(
        work,
        kernel.vmlinuz,
        initrd,
        image.kernel_cmdline,
        image.cpu,
        image.memory,
        guest_disks(image, build, programs, work),
        vmcoreinfo=image.vmcoreinfo,
        memory_file=disks.blank(work / "memory", image.memory) if image.dies or "ram" in image.outputs else None,
        devices=image.devices,
    ) as guest:
        guest.wait_for("TRUTH-READY", seconds=1800 if image.bench else 600)
        ready = time.monotonic()
        death: dict[str, object] = {}
        if image.dies is not None:
            death = die(image, guest, work)
            made = [] if image.crash else dump(image, guest, base)
        elif image.crash:
            guest.wait_for("CRASH-DONE", seconds=600)
            guest.wait_exit(60)
            made = []
        else:
            time.sleep(1)
            guest.qmp("stop")
            made = dump(image, guest, base)
        text = guest.text()
    archive = work / f"{image.name}.truth.tar"
    save_truth(work, archive, text)
    if image.crash:
        made = crash_dumps(work, base, text)
    made.append(archive)
    if kernel.config:
        made.append(work / f"{image.name}.config")
        shutil.copyfile(kernel.config, made[-1])
    if kernel.vmlinux:
        made.append(work / f"{image.name}.vmlinux")
        made[-1].unlink(missing_ok=True)
        made[-1].hardlink_to(kernel.vmlinux)
    report = truth.inspect(archive, bench=image.bench is not None or image.system)
    manifest = {
        "image": asdict(image),
        "package": kernel.package,
        "version": kernel.version,
        "release": kernel.release,
        "suite": image.suite,
        "uname": console_value(text, "UNAME"),
        "cmdline": image.kernel_cmdline,
        "cpu": image.cpu,
        "memory_mib": image.memory,
        "made": "kexec crash kernel, makedumpfile -d 31 and -d 1"
        if image.crash
        else "QEMU TCG, paused, pmemsave and dump-guest-memory",
        **({"death": death} if death else {}),
        "vmcoreinfo_device": image.vmcoreinfo,
        "truth": asdict(report),
        "sha256": {path.name: sha256(path) for path in made if path.suffix != ".ram"},  # it is nearly all hole
        "sizes": {path.name: path.stat().st_size for path in made},
        "seconds": round(time.monotonic() - started, 1),
        "boot_seconds": round(ready - started, 1),
    }
    made.append(work / f"{image.name}.json")
    made[-1].write_text(json.dumps(manifest, indent=1) + "\n")
    for path in made:
        path.chmod(0o644)
        path.replace(out / path.name)
    clean(work)
    print(
        f"{image.name}: {kernel.version}, {report.processes} processes, "
        f"{report.with_memory} with memory, {report.areas} areas, "
        f"{manifest['seconds']} s"
    )
    if not report.complete or report.with_memory < 20:
        raise GuestError(f"{image.name}: the truth is not complete")
    if report.missing:
        print(f"{image.name}: not seen: {', '.join(report.missing)}")
    for line in report.failed:
        print(f"{image.name}: step failed: {line}")
    sys.stdout.flush()


def clean(work: Path) -> None:
    """Remove big files no longer needed; keep the console's text."""
    for path in (*work.glob("*.disk"), work / "initrd", work / "memory"):
        path.unlink(missing_ok=True)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Make images of Debian kernels.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="images; default all")
    parser.add_argument("--out", type=Path, default=Path("build/images"))
    parser.add_argument("--list", action="store_true", help="show the names and end")
    parser.add_argument("--bench", action="store_true", help="make bench-2g")
    parser.add_argument("--scale", type=float, default=1.0, help="bench: times 400 processes")
    parser.add_argument("--mib", type=int, default=300, help="bench: MiB of memory to touch")
    parser.add_argument("--keep-going", action="store_true", help="go on after an image failed")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the images asked for."""
    options = arguments(argv)
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    benches = bench_images(options.scale, options.mib)
    known = {image.name: image for image in (*IMAGES, *BUILT, *benches)}
    if options.list:
        print("\n".join(known))
        return 0
    names = list(options.names)
    if options.bench and not names:
        names = [benches[0].name]
    names = names or [image.name for image in IMAGES]
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no such image: {', '.join(unknown)}", file=sys.stderr)
        return 2
    missing = missing_packages()
    if missing:
        print(f"apt-get install --no-install-recommends {' '.join(missing)}")
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    bad = 0
    for name in names:
        try:
            make(known[name], options.out, options.out.parent)
        except (PackageError, GuestError, OSError, subprocess.SubprocessError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            bad += 1
            if not options.keep_going:
                break
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
