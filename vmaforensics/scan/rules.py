"""YARA rules from files, compiled; everything that can be wrong with them is one sentence."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmaforensics.errors import RulesError, UsageError
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_MOST_BYTES = 64 << 20  # of one file
_MOST_FILES = 1 << 14
_SUFFIXES = (".yar", ".yara")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledRules:
    """Rules, as bytes that any process can make a scanner of."""

    serialized: bytes
    files: tuple[tuple[str, str], ...]  # path and SHA-256 of each


def library() -> Any:  # noqa: ANN401 - yara_x is optional
    """The module ``yara_x``. Raises :class:`UsageError` if it is not installed."""
    try:
        import yara_x
    except ImportError:
        raise UsageError("--yara needs yara-x: pip install 'vmaforensics[scan]'") from None
    return yara_x


def compile_rules(paths: Sequence[Path]) -> CompiledRules:
    """The rules of files, and of all ``.yar`` and ``.yara`` files of folders; each file is a namespace of its own.

    Raises :class:`RulesError` for what cannot be read or compiled.
    """
    yara_x = library()
    compiler, files = yara_x.Compiler(), []
    for path in _files(paths):
        try:
            source = path.read_bytes()[: _MOST_BYTES + 1]
        except OSError as error:
            raise RulesError(f"cannot read the rules {path}: {error.strerror}") from None
        if len(source) > _MOST_BYTES:
            raise RulesError(f"the rules {path} have more than {_MOST_BYTES >> 20} MiB")
        try:
            compiler.new_namespace(printable(path.stem))
            compiler.add_include_dir(str(path.parent))
            compiler.add_source(source.decode(), origin=str(path))
        except UnicodeDecodeError:
            raise RulesError(f"the rules {path} are not text in UTF-8") from None
        except (yara_x.CompileError, ValueError, OSError) as error:
            raise RulesError(f"the rules {path} cannot be compiled: {_sentence(str(error))}") from None
        files.append((printable(str(path)), hashlib.sha256(source).hexdigest()))
    stream = io.BytesIO()
    compiler.build().serialize_into(stream)
    return CompiledRules(serialized=stream.getvalue(), files=tuple(files))


def _files(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(part for part in path.rglob("*") if part.suffix in _SUFFIXES and part.is_file())
            if not inside:
                raise RulesError(f"the folder {path} has no file that ends in .yar or .yara")
            found += inside
        else:
            found.append(path)
    if len(found) > _MOST_FILES:
        raise RulesError(f"there are {len(found)} files of rules, more than {_MOST_FILES}")
    return found


def _sentence(text: str) -> str:
    """What the compiler says of the first error, in a line: ``error[E009]: … --> line:1:21``."""
    lines = [line.strip() for line in text.splitlines()]
    place = next((line.removeprefix("-->").strip() for line in lines if line.startswith("-->")), "")
    why = next((line.split("^", 1)[1].lstrip("^ ") for line in lines if "^" in line), "")
    told = lines[0] if lines else "no reason is given"
    return f"{told}{f' ({place})' if place else ''}{f': {why}' if why else ''}"
