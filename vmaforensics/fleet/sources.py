"""Which images a fleet has: files, patterns, folders, lists and URLs, as one list without repeats.

A folder gives the files that begin as an image does, or are called as one; what it passes over is counted. What is
named by itself, matches a pattern or stands in a list is taken whatever it is: if it is no image, its row says so.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vmaforensics.errors import ImageUnreadableError, OutputError, UsageError
from vmaforensics.image.open import begins_as_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

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


def find_sources(words: Sequence[str], lists: Sequence[Path] = (), role: str = "", output: Path | None = None) -> Found:
    """The images that ``words`` (paths, patterns, folders, URLs) and ``lists`` name.

    A line of a list is a location, then optionally a tab and the role of the machine; what begins with ``#`` is a
    comment. ``role`` is that of images without one of their own. The folder ``output`` is not looked into.
    Raises :class:`UsageError` where a word matches nothing, :class:`ImageUnreadableError` where a list or URL cannot be
    read. A folder or file that cannot be read is one of the sources: its row says why.
    """
    sources: dict[str, Source] = {}
    passed_over = 0
    # Folders that were looked into, by what identifies them: links may lead back, and two words to one.
    seen = {_identity(output)} if output is not None else set()
    for word, own in (*((word, "") for word in words), *_lines(lists)):
        if _is_url(word):
            found = list(_remote(word, own or role))
        else:
            found = []
            for path in _matching(word):
                if _mode(path, stat.S_ISDIR):
                    more, others = _of_folder(path, own or role, seen)
                    found += more
                    passed_over += others
                else:
                    found.append(_local(path, own or role))
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
    """The files and folders of a pattern, sorted; of what is none, the path itself, whether it is there or not."""
    if not _PATTERN & set(word) or os.path.lexists(word):
        return [Path(word)]
    found = sorted(map(Path, glob.iglob(word, recursive=True)))  # noqa: PTH207 - any path
    found = [path for path in found if _mode(path, stat.S_ISREG) or _mode(path, stat.S_ISDIR)]
    if not found:
        raise UsageError(f"no file matches {word!r}")
    return found


def _of_folder(folder: Path, role: str, seen: set[tuple[int, int]]) -> tuple[list[Source], int]:
    """The images below ``folder``, and how many files are none. Links are followed; a folder of ``seen`` is not."""
    found, others = [], 0

    def unreadable(error: OSError) -> None:
        found.append(_local(Path(error.filename), role))

    for at, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        place = _identity(Path(at))
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in sorted(Path(at) / name for name in files if not name.startswith(".")):
            if _may_be_image(path):
                found.append(_local(path, role))
            else:
                others += 1
    return found, others


def _may_be_image(path: Path) -> bool:
    """Whether a file of a folder is taken. Of a link that leads nowhere the name decides."""
    called = path.suffix.lower() in _CALLED
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return called
    return regular and (called or begins_as_image(path))


def _mode(path: Path, asked: Callable[[int], bool]) -> bool:
    try:
        return asked(path.stat().st_mode)
    except (OSError, ValueError):  # not there, a loop, too long, a NUL in it: whoever opens it says so
        return False


def _identity(path: Path) -> tuple[int, int]:
    """What tells a folder from all others; (0, 0) of one that is not there."""
    try:
        about = path.stat()
    except (OSError, ValueError):
        return 0, 0
    return about.st_dev, about.st_ino


def _local(path: Path, role: str) -> Source:
    try:
        # Its folder in one form only, so that no image is taken twice; its own name stays, be it that of a link.
        path = path.parent.resolve() / path.name
        about = path.stat()
    except (OSError, ValueError, RuntimeError):  # its row will say what is wrong
        return Source(location=os.path.abspath(path), role=role, size=0, modified=0)  # noqa: PTH100 - never fails
    return Source(location=str(path), role=role, size=about.st_size, modified=about.st_mtime_ns)


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


def _require_no_folder(path: Path) -> None:
    """Raise :class:`ImageUnreadableError` for a folder, with what keeps it from being looked into."""
    if _mode(path, stat.S_ISDIR):
        try:
            next(path.iterdir(), None)
        except OSError as error:
            raise ImageUnreadableError(f"the folder {path} cannot be looked into: {error.strerror}") from None


def _state(location: str) -> tuple[int, int] | None:
    """Size and time of change of a file; None where it is not there."""
    try:
        about = os.stat(location)  # noqa: PTH116 - any string
    except (OSError, ValueError):
        return None
    return about.st_size, about.st_mtime_ns


@contextmanager
def local_file(source: Source, folder: Path) -> Iterator[Path]:
    """The file of an image: where it lies, or a copy in ``folder`` that is removed again.

    Raises :class:`ImageUnreadableError` where a URL cannot be fetched, and at the end where the file was written to
    meanwhile.
    """
    if not source.is_url:
        _require_no_folder(Path(source.location))
        before = _state(source.location)
        yield Path(source.location)
        if _state(source.location) != before:
            raise ImageUnreadableError(
                f"{source.location} changed while it was read; once it is complete, --resume reads it again"
            )
        return
    copy = folder / f".{source.key}{PurePosixPath(source.location).suffix[:16]}"
    try:
        files, path = _file_system(source.location)
        try:
            files.get_file(path, str(copy))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutputError(f"no room for a copy of {source.location} in {folder}: {error.strerror}") from None
            raise ImageUnreadableError(f"cannot fetch {source.location}: {error}") from None
        except Exception as error:  # of whatever package serves the URL
            raise ImageUnreadableError(f"cannot fetch {source.location}: {error}") from None
        yield copy
    finally:
        copy.unlink(missing_ok=True)
