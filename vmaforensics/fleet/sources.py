"""Which images a fleet has: files, patterns, folders, lists and URLs, as one list without repeats.

A folder gives the files that begin as an image does, or are called as one; what it passes over is counted. What is
named by itself, matches a pattern or stands in a list is taken whatever it is: if it is no image, its row says so.
"""

from __future__ import annotations

import glob
import hashlib
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vmaforensics.errors import ImageUnreadableError, UsageError
from vmaforensics.image.open import begins_as_image

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_CALLED: Final = {".raw", ".mem", ".vmem", ".dmp", ".dump", ".lime", ".avml", ".kdump", ".elf", ".core", ".vmcore"}
_MOST_LINES: Final = 1_000_000  # of a list
_PATTERN: Final = frozenset("*?[")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An image of the fleet. ``location`` is an absolute path or a URL, ``role`` what kind of machine it is."""

    location: str
    role: str
    size: int  # bytes
    modified: int  # nanoseconds since the epoch; 0: not known, as of many URLs

    @property
    def key(self) -> str:
        """Names the image in the dataset and in names of files: 16 hexadecimal digits of its location's hash."""
        return hashlib.sha256(self.location.encode(errors="surrogateescape")).hexdigest()[:16]

    @property
    def is_url(self) -> bool:
        """Whether fsspec has to fetch it."""
        return _is_url(self.location)


class Found(NamedTuple):
    """The images, in the order in which they were named, and how many files of folders are none."""

    sources: list[Source]
    passed_over: int


def find_sources(words: Sequence[str], lists: Sequence[Path] = (), role: str = "") -> Found:
    """The images that ``words`` (paths, patterns, folders, URLs) and ``lists`` name.

    A line of a list is a location, then optionally a tab and the role of the machine; what begins with ``#`` is a
    comment. ``role`` is that of images without one of their own.
    Raises :class:`UsageError` where a word matches nothing, :class:`ImageUnreadableError` where a list or folder
    cannot be read.
    """
    sources: dict[str, Source] = {}
    passed_over = 0
    for word, own in (*((word, "") for word in words), *_lines(lists)):
        if _is_url(word):
            found = list(_remote(word, own or role))
        elif Path(word).is_dir():
            found, others = _of_folder(Path(word), own or role)
            passed_over += others
        else:
            found = [_local(path, own or role) for path in _matching(word)]
        for source in found:
            sources.setdefault(source.location, source)
    if not sources:
        raise UsageError("none of what was given is a memory image; name files, folders, patterns or lists of them")
    return Found(list(sources.values()), passed_over)


def _lines(lists: Iterable[Path]) -> Iterator[tuple[str, str]]:
    for path in lists:
        try:
            lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        except OSError as error:
            raise ImageUnreadableError(f"cannot read the list {path}: {error.strerror}") from None
        if len(lines) > _MOST_LINES:
            raise UsageError(f"{path} has {len(lines)} lines, more than {_MOST_LINES}; split the fleet")
        for line in lines:
            if line.strip() and not line.startswith("#"):
                location, _, role = line.partition("\t")
                yield location.strip(), role.strip()


def _matching(word: str) -> list[Path]:
    """The files of a pattern, sorted; of what is none, the file itself, whether it is there or not."""
    if not _PATTERN & set(word) or Path(word).exists():
        return [Path(word)]
    found = sorted(path for path in map(Path, glob.iglob(word, recursive=True)) if path.is_file())  # noqa: PTH207 - any path
    if not found:
        raise UsageError(f"no file matches {word!r}")
    return found


def _of_folder(folder: Path, role: str) -> tuple[list[Source], int]:
    found, others = [], 0

    def unreadable(error: OSError) -> None:
        raise ImageUnreadableError(f"cannot read the folder {error.filename}: {error.strerror}") from None

    for at, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in sorted(Path(at) / name for name in files if not name.startswith(".")):
            if path.is_file() and (path.suffix.lower() in _CALLED or begins_as_image(path)):
                found.append(_local(path, role))
            else:
                others += 1
    return found, others


def _local(path: Path, role: str) -> Source:
    try:
        about = path.stat()
    except OSError:  # its row will say what is wrong
        return Source(location=str(path.absolute()), role=role, size=0, modified=0)
    return Source(location=str(path.absolute()), role=role, size=about.st_size, modified=about.st_mtime_ns)


def _is_url(word: str) -> bool:
    scheme, found, _ = word.partition("://")
    return bool(found) and scheme.replace("+", "").replace(":", "").isalnum()


def _remote(url: str, role: str) -> Iterator[Source]:
    """Those of a URL, its pattern expanded. Raises :class:`UsageError` where fsspec or its package is missing."""
    files, path = _file_system(url)
    try:
        matches = sorted(files.glob(path)) if _PATTERN & set(path) else [path]
        if not matches:
            raise UsageError(f"no file matches {url!r}")
        for match in matches:
            about = files.info(match)
            yield Source(
                location=files.unstrip_protocol(match), role=role, size=int(about.get("size") or 0), modified=0
            )
    except UsageError:
        raise
    except Exception as error:  # of whatever package serves the URL
        raise ImageUnreadableError(f"cannot list {url}: {error}") from None


def _file_system(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs

        files, path = url_to_fs(url)
    except ImportError as error:
        raise UsageError(f"{url} needs a package that is not installed: {error}") from None
    except ValueError as error:
        raise UsageError(f"{url} is no URL that fsspec knows: {error}") from None
    return files, str(path)


@contextmanager
def local_file(source: Source, folder: Path) -> Iterator[Path]:
    """The file of an image: where it lies, or a copy in ``folder`` that is removed again.

    Raises :class:`ImageUnreadableError` where a URL cannot be fetched.
    """
    if not source.is_url:
        yield Path(source.location)
        return
    copy = folder / f".{source.key}{PurePosixPath(source.location).suffix[:16]}"
    try:
        files, path = _file_system(source.location)
        try:
            files.get_file(path, str(copy))
        except Exception as error:  # of whatever package serves the URL
            raise ImageUnreadableError(f"cannot fetch {source.location}: {error}") from None
        yield copy
    finally:
        copy.unlink(missing_ok=True)
