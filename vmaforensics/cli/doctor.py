"""``vmaforensics doctor``: is the installation complete, and would a report of an image be?"""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vmaforensics.cli.arguments import add_symbols
from vmaforensics.errors import ExitCode, VmaForensicsError
from vmaforensics.version import __version__
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

_NAME = "vmaforensics"
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:>=\s*([0-9.]+))?")
# What one can do without, and what it adds.
_OPTIONAL = {
    "volatility3": "the plugins of plugin-dir, and images through volatility3's own layers",
    "pandas": "Document.frame(): tables as data frames",
    "pyarrow": "report --format parquet",
    "yara-x": "scan --yara, report --yara",
    "duckdb": "sql",
    "distributed": "fleet: many images at once, with dask, duckdb and fsspec",
}


class Requirement(NamedTuple):
    """A distribution this package needs, or can use."""

    name: str
    least: str  # the oldest version that will do; empty: any

    @property
    def spelled(self) -> str:
        """As pip takes it."""
        return f"{self.name}>={self.least}" if self.least else self.name


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "doctor",
        help="check the installation, or why a report of an image would fail or be incomplete",
        description="Check the installation: what is there, what is missing, what each missing part would add and "
        "the command that installs it. With IMAGE also what a report of it would lack, and why. Ends with 0 if the "
        "tool can be used (on that image).",
    )
    parser.add_argument("image", metavar="IMAGE", nargs="*", help="an image to look at; of a split dump, all its parts")
    add_symbols(parser)
    parser.add_argument(
        "--types",
        metavar="FILE",
        type=Path,
        help="BTF, vmlinux or an ISF: which views a report of a kernel with these types would have",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the state of things; what makes a report impossible decides the exit code."""
    from vmaforensics.words.printable import printable

    lacking = False
    for state, text in _installation():
        lacking |= state == "MISSING"
        sys.stdout.write(f"{state:8}  {printable(text)}\n")
    if args.types is not None:
        from vmaforensics.cli.doctor_types import examine_types

        sys.stdout.write("\n")
        _tell(*examine_types(args.types))
    if args.image:
        from vmaforensics.cli.doctor_image import examine
        from vmaforensics.cli.progress import watched

        sys.stdout.write("\n")
        with watched(args) as say:
            lines, failure = examine(args, say)
        _tell(lines, failure)
    if lacking:
        raise IncompleteError("required parts are missing, see above; install them, then run this again")
    return ExitCode.OK


def _tell(lines: list[tuple[str, str]], failure: VmaForensicsError | None) -> None:
    """Print what was found out, then raise what a report would end with."""
    from vmaforensics.words.printable import printable

    for state, text in lines:
        sys.stdout.write(f"{state:8}  {printable(text)}\n")
    if failure is not None:
        raise failure


class IncompleteError(VmaForensicsError):
    """The installation lacks something it cannot do without."""

    exit_code = ExitCode.INCOMPLETE


def _installation() -> Iterator[tuple[str, str]]:
    yield "ok", f"{_NAME} {__version__}, Python {platform.python_version()} ({sys.executable})"
    required, optional = _requirements()
    if not required:
        yield "note", f"{_NAME} runs from its sources and is not installed; what it requires is not known here"
    for requirement in required:
        yield _state(requirement, needed=True)
    known = {requirement.name: requirement for requirement in optional}
    for name, adds in _OPTIONAL.items():
        state, text = _state(known.get(name, Requirement(name, "")), needed=False)
        yield state, text if state == "ok" else f"{text}; it adds: {adds}"
    yield from _caches()


def _requirements() -> tuple[list[Requirement], list[Requirement]]:
    """What the installed package states: (required, optional)."""
    import importlib.metadata

    try:
        stated = importlib.metadata.requires(_NAME) or []
    except importlib.metadata.PackageNotFoundError:
        return [], []
    required: list[Requirement] = []
    optional: list[Requirement] = []
    for text in stated:
        match = _REQUIREMENT.match(text)
        if match is not None and match[1].lower() != _NAME:
            (optional if "extra ==" in text else required).append(Requirement(match[1], match[2] or ""))
    return required, optional


def _state(requirement: Requirement, *, needed: bool) -> tuple[str, str]:
    import importlib.metadata

    missing = "MISSING" if needed else "absent"
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return missing, f"{requirement.name}; to install it: {install_command(requirement)}"
    if _numbers(version) < _numbers(requirement.least):
        older = f"{requirement.name} {version} is older than {requirement.least}"
        return missing, f"{older}; to renew it: {install_command(requirement)}"
    return "ok", f"{requirement.name} {version}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", version.partition("+")[0])[:3])


def install_command(requirement: Requirement) -> str:
    """The command that puts ``requirement`` where this Python finds it."""
    parts = Path(sys.prefix).parts
    if "pipx" in parts:
        return f"pipx inject {_NAME} {shlex.quote(requirement.spelled)}"
    if "uv" in parts and "tools" in parts:
        return f"uv tool install {_NAME} --with {shlex.quote(requirement.spelled)}"
    return f"{shlex.quote(sys.executable)} -m pip install {shlex.quote(requirement.spelled)}"


def _caches() -> Iterator[tuple[str, str]]:
    from vmaforensics import cache
    from vmaforensics.export.isf.cache import cache_directory

    symbols = cache_directory()
    yield _cache(symbols, "symbol files for volatility3", "symbol files are made again each time", None)
    if cache.enabled():
        yield _cache(cache.folder(), "what was found in an image", "everything is searched for each time", cache.held)
    else:
        yield "note", f"cache of what was found in images: switched off ({cache.OFF}, or --no-cache)"


def _cache(folder: Path, what: str, otherwise: str, count: Callable[[], tuple[int, int]] | None) -> tuple[str, str]:
    """The state of one folder of the cache; ``count`` gives its files and bytes, by default all that are there."""
    try:
        if not folder.exists():
            return "ok", f"cache {folder}: not there yet; {what} will be kept in it"
        sizes = [path.stat().st_size for path in folder.iterdir() if path.is_file()]
        files, size = (len(sizes), sum(sizes)) if count is None else count()
    except OSError as error:
        return "note", f"cache {folder}: cannot be read ({error.strerror}); {otherwise}"
    told = f"{counted(files, 'file')}, {size / 1e6:.1f} MB; it may be deleted"
    return ("ok", f"cache {folder}: {told}") if _writable(folder) else ("note", f"cache {folder}: cannot be written")


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)
