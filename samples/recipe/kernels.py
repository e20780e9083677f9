"""Build kernels of Debian's linux-source packages in configurations that nobody packages.

A configuration is configs/small.config, all that the guest needs, and a few lines that differ. Building takes some
twenty minutes on two cores; what is there already is not built again. Needs, besides what make_images.py asks for:
bc, bison, flex, libelf-dev, and dwarves for those with BTF; for WITH_CLANG also clang, lld and llvm.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from packages import Kernel, PackageError, PrivateApt, obtain

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIGS = Path(__file__).resolve().parent / "configs"
# The compiler itself shuffles the members there; with GCC it is a plugin, and the kernel then gives no BTF.
WITH_CLANG = {"clang", "randstruct"}
STAMP = "KBUILD_BUILD_TIMESTAMP=Thu Jan 1 00:00:00 UTC 2026"
# Sources that no configuration here compiles; the Kconfig files among them are needed.
LEFT_OUT = (
    *("*/drivers/gpu/*.[ch]", "*/drivers/net/*/*.[ch]", "*/drivers/media/*.[ch]", "*/drivers/staging/*.[ch]"),
    *("*/sound/*.[ch]", "*/arch/[a-tv-wyz]*/*.[chS]", "*.dts", "*.dtsi", "*/Documentation/*.rst"),
    *("*/Documentation/devicetree/*.yaml", "*/tools/testing/*", "*/tools/perf/*.[ch]", "*/tools/perf/*.json"),
)


def kernel_of(suite: str, package: str, config: str, build: Path) -> Kernel:
    """The kernel of a package; with a configuration, of a package of sources."""
    return built(suite, package, config, build) if config else obtain(suite, package, build)


def built(suite: str, package: str, config: str, build: Path) -> Kernel:
    """The kernel of a source package in one of CONFIGS, built if it is not there yet."""
    apt = PrivateApt(build / "apt", suite)
    apt.update()
    version = apt.show(package)["Version"]
    root = build / "kernels" / f"{package}_{version}_{config}"
    if not (root / ".complete").exists():
        source = unpacked(apt, package, version, build)
        objects = (build / "objects" / f"{package}-{config}").resolve()
        objects.mkdir(parents=True, exist_ok=True)
        compile_kernel(source, objects, config)
        collect(objects, root)
    release = (root / "release").read_text().strip()
    return Kernel(
        package=package,
        version=version,
        release=release,
        vmlinuz=root / "vmlinuz",
        config=root / "config",
        modules=root / "lib" / "modules" / release,
        vmlinux=root / "vmlinux",
    )


def unpacked(apt: PrivateApt, package: str, version: str, build: Path) -> Path:
    """The folder of the sources."""
    folder = (build / "sources" / f"{package}_{version}").resolve()
    if not (folder / ".complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        archive = apt.download(package, build / "debs")
        excludes = " ".join(f"--exclude='{pattern}'" for pattern in LEFT_OUT)
        shell = (
            f"dpkg-deb --fsys-tarfile '{archive}' | tar -xO ./usr/src/{package}.tar.xz | xz -dc | "
            f"tar -x -C '{folder}' --strip-components=1 --wildcards --wildcards-match-slash {excludes}"
        )
        subprocess.run(["bash", "-o", "pipefail", "-c", shell], check=True)
        (folder / ".complete").touch()
    return folder


def compile_kernel(source: Path, objects: Path, config: str) -> None:
    """make allnoconfig with the options of a configuration (or of several, joined by "-"), and make bzImage."""
    parts = config.split("-")
    wanted = objects / "wanted.config"
    wanted.write_text("".join((CONFIGS / f"{name}.config").read_text() for name in ("small", *parts)))
    tools = [f"LLVM={clang_suffix() or 1}"] if WITH_CLANG.intersection(parts) else []
    run("make", "-s", f"O={objects}", *tools, "allnoconfig", cwd=source, KCONFIG_ALLCONFIG=str(wanted))
    run("nice", "-n", "5", "make", f"O={objects}", f"-j{os.cpu_count()}", *tools, STAMP, "bzImage", cwd=source)


def clang_suffix() -> str:
    """What the kernel's makefiles take for LLVM= where the tools carry a version in their names: "-19"; else empty."""
    if shutil.which("clang"):
        return ""
    found = [path.name.removeprefix("clang") for path in Path("/usr/bin").glob("clang-[0-9]*")]
    versions = [name for name in found if name[1:].isdecimal() and shutil.which(f"ld.lld{name}")]
    if not versions:
        raise PackageError("apt-get install --no-install-recommends clang lld llvm")
    return max(versions, key=lambda name: int(name[1:]))


def run(*command: str, cwd: Path, **variables: str) -> None:
    """Run a command, and keep what it says to itself unless it fails."""
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **variables}, capture_output=True, text=True)
    if done.returncode != 0:
        said: Sequence[str] = (done.stdout + done.stderr).splitlines()[-30:]
        raise PackageError("\n".join([f"{' '.join(command)} failed:", *said]))


def collect(objects: Path, root: Path) -> None:
    """Copy what a guest and an analysis need out of the objects: there are no modules."""
    release = (objects / "include/config/kernel.release").read_text().strip()
    modules = root / "lib" / "modules" / release
    (modules / "kernel").mkdir(parents=True, exist_ok=True)
    (modules / "modules.dep").touch()
    for name, target in (
        ("arch/x86/boot/bzImage", "vmlinuz"),
        (".config", "config"),
        ("vmlinux", "vmlinux"),
        ("System.map", "System.map"),
    ):
        shutil.copyfile(objects / name, root / target)
    (root / "release").write_text(f"{release}\n")
    (root / ".complete").touch()
