"""What earlier runs found out, kept in the user's cache folder so that later ones need not search for it again.

An entry is a small JSON document of one kind. Its key is a hash of the contents that it was found in, never a path.
That an entry is there proves nothing: it may be stale, damaged or planted, so whoever loads one holds it against what
it is about, and does without if it does not fit.

The folder is the user's own: entries that others could have written are not read, and where it cannot be written
nothing is kept. It holds at most :data:`MOST_BYTES` in :data:`MOST_FILES` entries; those that were not used for the
longest time are removed. It may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vmaforensics.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

OFF = "VMAFORENSICS_NO_CACHE"  # of the environment: nothing is read or kept where it is set and not empty
MOST_BYTES = 64 << 20
MOST_FILES = 1024
LARGEST = 8 << 20  # bytes of one entry

_NAME = re.compile(r"[a-z]{1,16}-[0-9a-f]{64}\.json")
_WRITTEN_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

log = logging.getLogger(__name__)


class Held(NamedTuple):
    """How much is kept."""

    files: int
    size: int  # bytes


def base_folder() -> Path:
    """``$XDG_CACHE_HOME/vmaforensics`` or ``~/.cache/vmaforensics``; it need not exist."""
    stated = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(stated) if stated.startswith("/") else Path("~/.cache").expanduser()
    return base / "vmaforensics"


def folder() -> Path:
    """The folder of the entries; it need not exist."""
    return base_folder() / "found"


def enabled() -> bool:
    """Whether anything is to be read from the cache or kept in it."""
    return not os.environ.get(OFF)


@contextmanager
def without(*, really: bool = True) -> Iterator[None]:
    """Neither read nor keep anything until the block ends, in this process and in those that it starts."""
    before = os.environ.get(OFF)
    if really:
        os.environ[OFF] = "1"
    try:
        yield
    finally:
        if really:
            os.environ.pop(OFF, None)
            if before is not None:
                os.environ[OFF] = before


def load(kind: str, key: str) -> dict[str, Any] | None:
    """What :func:`keep` was given under this kind and key (64 hexadecimal digits); None if it cannot be had."""
    if not enabled():
        return None
    path = folder() / f"{kind}-{key}.json"
    try:
        if not _ours(folder().stat()):
            return None
        raw = _read(path)
        document = json.loads(raw)
        content = document["content"]
        if document["made by"] != __version__ or document["sha256"] != _checksum(content) or type(content) is not dict:
            return None
        with suppress(OSError):
            os.utime(path)  # used just now: others are removed before it
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        log.debug("no %s in the cache: %s", kind, error)
        return None
    return content


def keep(kind: str, key: str, content: dict[str, Any]) -> None:
    """Keep ``content``, which JSON can say, under a kind (lower-case letters) and a key (64 hexadecimal digits).

    Where that is not possible nothing happens: a cache is no result.
    """
    if not enabled():
        return
    document = {"made by": __version__, "sha256": _checksum(content), "content": content}
    raw = json.dumps(document, separators=(",", ":")).encode()
    if len(raw) > LARGEST:
        return
    directory = folder()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _ours(directory.stat()):
            return
        _write(directory, f"{kind}-{key}.json", raw)
        _make_room(directory)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        log.debug("the cache cannot be written: %s", error)


def held() -> Held:
    """What is kept. Raises ``OSError`` where the folder cannot be read."""
    entries = _entries(folder())
    return Held(len(entries), sum(entry.size for entry in entries))


def _checksum(content: object) -> str:
    return hashlib.sha256(json.dumps(content, separators=(",", ":"), sort_keys=True).encode()).hexdigest()


def _ours(found: os.stat_result) -> bool:
    """Whether nobody but this user can have written there."""
    mine = not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
    return mine and not found.st_mode & _WRITTEN_BY_OTHERS


def _read(path: Path) -> bytes:
    """The bytes of an entry. Raises ``OSError``, or ``ValueError`` for what is none."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with os.fdopen(os.open(path, flags), "rb") as stream:
        found = os.fstat(stream.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST or not _ours(found):
            raise ValueError(f"{path} is none of ours")
        return stream.read(LARGEST)


def _write(directory: Path, name: str, raw: bytes) -> None:
    """Write a file that appears whole or not at all, for this user alone."""
    partial = directory / f".{secrets.token_hex(8)}"
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(raw)
        partial.replace(directory / name)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


class _Entry(NamedTuple):
    used: float  # when it was last used
    size: int  # bytes
    path: Path


def _entries(directory: Path) -> list[_Entry]:
    """The entries, and what a run that was killed left of one; those used longest ago first."""
    found = []
    if directory.is_dir():
        for path in directory.iterdir():
            if _NAME.fullmatch(path.name) or re.fullmatch(r"\.[0-9a-f]{16}", path.name):
                with suppress(OSError):
                    state = path.lstat()
                    found.append(_Entry(state.st_mtime, state.st_size, path))
    return sorted(found)


def _make_room(directory: Path) -> None:
    """Remove entries, those used longest ago first, until the rest is within bounds."""
    entries = _entries(directory)
    total = sum(entry.size for entry in entries)
    for number, entry in enumerate(entries):
        if total <= MOST_BYTES and len(entries) - number <= MOST_FILES:
            break
        with suppress(OSError):
            entry.path.unlink()
        total -= entry.size
