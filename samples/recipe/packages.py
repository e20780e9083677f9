"""Download and unpack Debian kernel packages without installing them.

A private apt state (own lists, cache and sources) is kept for every suite, so
that the packages known to the host are neither used nor changed.  The mirror is
the one the host itself uses; it is asked from apt each time.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PART_OF_KERNEL = re.compile(r"^linux-(binary|modules|base)-\d")


class PackageError(Exception):
    """A kernel package cannot be found or unpacked."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel."""

    package: str
    version: str
    release: str  # what uname -r will say
    vmlinuz: Path
    config: Path | None
    modules: Path  # .../lib/modules/RELEASE
    vmlinux: Path | None = None  # with debugging information, of a kernel that was built here


def version_key(text: str) -> tuple[int, ...]:
    """Order kernel package names by the numbers in them."""
    return tuple(int(number) for number in re.findall(r"\d+", text))


@lru_cache(maxsize=1)
def mirrors() -> dict[str, str]:
    """The host's mirrors: {"Debian": uri, "Debian-Security": uri}."""
    out = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(LABEL) $(ORIGIN) $(REPO_URI)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found: dict[str, str] = {}
    for line in out.splitlines():
        label, _, rest = line.partition(" ")
        origin, _, uri = rest.partition(" ")
        if origin == "Debian" and label in ("Debian", "Debian-Security") and uri:
            found.setdefault(label, uri)
    if "Debian" not in found:
        raise PackageError("apt knows no Debian mirror; run apt-get update first")
    base = found["Debian"].rstrip("/")
    found.setdefault("Debian-Security", f"{base}-security")
    return found


class PrivateApt:
    """apt with its own state, for one suite (and its security updates)."""

    def __init__(self, root: Path, suite: str) -> None:
        self.suite = suite
        self.root = (root / suite).resolve()
        self.updated = False

    def _command(self, tool: str, *arguments: str) -> list[str]:
        options = {
            "Dir::State": self.root / "state",
            "Dir::State::status": self.root / "state" / "status",
            "Dir::Cache": self.root / "cache",
            "Dir::Etc::sourcelist": self.root / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Sandbox::User": "root",
            "APT::Architecture": "amd64",
            "Acquire::Retries": "3",
        }
        command = [tool, "-q"]
        for name, value in options.items():
            command += ["-o", f"{name}={value}"]
        return [*command, *arguments]

    def _run(self, tool: str, *arguments: str, cwd: Path | None = None) -> str:
        done = subprocess.run(self._command(tool, *arguments), capture_output=True, text=True, cwd=cwd)
        if done.returncode != 0:
            raise PackageError(f"{tool} {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def update(self) -> None:
        """Fetch the package lists, once per run."""
        if self.updated:
            return
        for part in ("state/lists/partial", "cache/archives/partial"):
            (self.root / part).mkdir(parents=True, exist_ok=True)
        (self.root / "state" / "status").touch()
        lines = [f"deb [signed-by={KEYRING}] {mirrors()['Debian']} {self.suite} main"]
        if self.suite in ("bullseye", "bookworm", "trixie"):
            security = f"{mirrors()['Debian-Security']} {self.suite}-security"
            lines.append(f"deb [signed-by={KEYRING}] {security} main")
        (self.root / "sources.list").write_text("\n".join(lines) + "\n")
        self._run("apt-get", "update")
        self.updated = True

    def show(self, package: str) -> dict[str, str]:
        """The fields of the newest version of a package."""
        text = self._run("apt-cache", "show", "--no-all-versions", package)
        fields: dict[str, str] = {}
        for line in text.split("\n\n")[0].splitlines():
            name, separator, value = line.partition(": ")
            if separator and not line.startswith(" "):
                fields[name] = value
        if "Version" not in fields:
            raise PackageError(f"{package} is not in {self.suite}")
        return fields

    def resolve(self, wanted: str) -> str:
        """The real kernel package behind a meta package or a regular expression."""
        self.update()
        if not wanted.startswith("^"):
            for name in depends(self.show(wanted)):
                if name.startswith("linux-image-"):
                    return name
            return wanted
        names = self._run("apt-cache", "pkgnames", "linux-image-").split()
        fitting = [name for name in names if re.search(wanted, name)]
        if not fitting:
            raise PackageError(f"no package fits {wanted} in {self.suite}")
        return max(fitting, key=version_key)

    def download(self, package: str, into: Path) -> Path:
        """Fetch one .deb, unless it is there already."""
        fields = self.show(package)
        name = f"{package}_{fields['Version'].replace(':', '%3a')}_{fields['Architecture']}.deb"
        into.mkdir(parents=True, exist_ok=True)
        if not (into / name).exists():
            self._run("apt-get", "download", package, cwd=into)
        if not (into / name).exists():
            raise PackageError(f"{name} did not arrive")
        return into / name


def depends(fields: dict[str, str]) -> list[str]:
    """The names of the packages a package depends on."""
    parts = fields.get("Depends", "").split(",")
    return [part.split()[0] for part in parts if part.strip()]


def obtain(suite: str, wanted: str, build: Path) -> Kernel:
    """Download and unpack a kernel; run depmod on its modules."""
    apt = PrivateApt(build / "apt", suite)
    package = apt.resolve(wanted)
    fields = apt.show(package)
    parts = [package]
    parts += [name for name in depends(fields) if PART_OF_KERNEL.match(name)]
    root = build / "kernels" / f"{package}_{fields['Version']}"
    if not (root / ".complete").exists():
        root.mkdir(parents=True, exist_ok=True)
        for part in parts:
            try:
                deb = apt.download(part, build / "debs")
            except PackageError:
                if part.startswith("linux-base-"):
                    continue  # lists and the configuration; old ones vanish first
                raise
            subprocess.run(["dpkg", "-x", str(deb), str(root)], check=True)
        (root / ".complete").touch()
    return describe(root, package, fields["Version"])


def describe(root: Path, package: str, version: str) -> Kernel:
    """Find the pieces of an unpacked kernel."""
    images = sorted(root.rglob("vmlinuz-*")) or sorted(root.rglob("vmlinuz"))
    folders = sorted(root.glob("lib/modules/*")) + sorted(root.glob("usr/lib/modules/*"))
    folders = [folder for folder in folders if (folder / "kernel").is_dir()]
    if not images or not folders:
        raise PackageError(f"{package} holds no kernel or no modules")
    release = folders[0].name
    base = folders[0].parents[2]
    if not (folders[0] / "modules.dep").exists():
        if not (base / "lib").exists():
            base = base.parent
        subprocess.run(["depmod", "-b", str(base), release], check=True)
    configs = sorted(root.rglob(f"config-{release}")) or sorted(folders[0].glob("config"))
    return Kernel(
        package=package,
        version=version,
        release=release,
        vmlinuz=images[0],
        config=configs[0] if configs else None,
        modules=folders[0],
    )
