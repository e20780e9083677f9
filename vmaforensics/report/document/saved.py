"""Saved documents: recognised among images, read, and checked before anything is made of them.

A saved document may have been written by anyone. Its strings are made printable, its addresses are addresses, its
numbers fit in columns; renderers rely on the latter two.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from vmaforensics.errors import ExitCode, ImageUnreadableError, VmaForensicsError
from vmaforensics.report.document.document import Document
from vmaforensics.report.document.json_text import is_inert, printable_all
from vmaforensics.report.document.parts import Schema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_HEAD = 4096  # bytes that tell JSON from memory
_BEGINS = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{\s*\"")
_ADDRESS = "0x(?:[0-9a-f]{1,16}|10{16})"  # the latter is the end of what reaches to the end of the address space
_ADDRESSES = re.compile(rf"(?:{_ADDRESS}\n)*")
_BYTES = re.compile("(?:[0-9a-f]{2}){0,64}")
_WORD = 1 << 64


class DocumentInvalidError(VmaForensicsError):
    """The file is not a saved document, or its schema is one that this version does not read."""

    exit_code = ExitCode.DOCUMENT_INVALID


class _Schema(msgspec.Struct):
    """The schema of any document, also of one to come."""

    name: str
    version: str


class _Any(msgspec.Struct):
    """As much of a document as tells which one it is."""

    schema: _Schema | None = None


def is_saved(path: Path) -> bool:
    """Does the file begin like a JSON object? No image does: its headers, or its first page of memory, hold bytes
    that are no text."""
    try:
        if not path.is_file():  # what is read from a pipe is gone
            return False
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError:
        return False  # the reader of images says what is wrong with it
    return _BEGINS.match(head) is not None and b"\0" not in head


def load(path: Path) -> Document:
    """The document in a file. Raises :class:`DocumentInvalidError` if it holds none, or one of a newer schema."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ImageUnreadableError(f"cannot read {path}: {error.strerror}") from None
    return parse(raw.removeprefix(b"\xef\xbb\xbf"), str(path))


def parse(raw: bytes, name: str = "the document") -> Document:
    """The document of JSON text; ``name`` is what to call it in an error."""
    try:
        found = msgspec.json.decode(raw, type=_Any).schema
        _require_schema(found, name)
        document = _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        text = f"{name} is not a report that can be rendered: {error or type(error).__name__}"
        raise DocumentInvalidError(text) from None
    wrong = _wrong(document)
    if wrong:
        raise DocumentInvalidError(f"{name} is not a report that can be rendered: {wrong}")
    return document


def _decode(raw: bytes) -> Document:
    if is_inert(raw):
        return msgspec.json.decode(raw, type=Document)
    return msgspec.convert(printable_all(msgspec.json.decode(raw)), Document)


def _require_schema(found: _Schema | None, name: str) -> None:
    own = Schema()
    if found is None or found.name != own.name:
        what = "has no schema" if found is None else f"is a {found.name!r} document"
        raise DocumentInvalidError(f"{name} {what}; only what `vmaforensics report --format json` writes is read")
    numbers, ours = _numbers(found.version), _numbers(own.version) or (0, 0)
    if numbers is None:
        text = f"{name} has no readable schema version ({found.version!r}); {own.version} was expected"
        raise DocumentInvalidError(text)
    if numbers > ours:
        raise DocumentInvalidError(
            f"{name} is of schema {found.version}, newer than the {own.version} of this version; "
            "use a newer vmaforensics, or make the report again from its image"
        )
    if numbers[0] < ours[0]:
        raise DocumentInvalidError(
            f"{name} is of schema {found.version}, older than the {own.version} of this version; "
            "make the report again from its image"
        )


def _numbers(version: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"([0-9]{1,6})\.([0-9]{1,6})", version)
    return (int(match[1]), int(match[2])) if match else None


def _wrong(document: Document) -> str:
    """The first thing that no document of ours holds; empty if there is none."""
    texts = [text for text in _addresses(document) if text is not None]
    if not _ADDRESSES.fullmatch("".join(f"{text}\n" for text in texts)):
        bad = next(text for text in texts if not re.fullmatch(_ADDRESS, text))
        return f"{bad[:40]!r} is no address"
    for digits in (dump.data or "" for finding in document.findings for dump in finding.dumps):
        if not _BYTES.fullmatch(digits):
            return f"{digits[:40]!r} are no bytes in hexadecimal, or too many"
    for number in _integers(document):
        if not -(_WORD >> 1) <= number < _WORD >> 1:
            return f"the number {str(number)[:40]} is out of range"
    if any(not 0 <= region.inode < _WORD for process in document.processes for region in process.regions):
        return "an inode number is out of range"
    kernel = document.kernel
    for text in (kernel.booted, kernel.clock, kernel.crashed, *(process.started for process in document.processes)):
        if text is not None and not _is_time(text):
            return f"{text[:40]!r} is no time"
    return ""


def _addresses(document: Document) -> Iterator[str | None]:
    for process in document.processes:
        yield from (process.task, process.mm)
        yield from (thread.task for thread in process.threads)
        for region in process.regions:
            yield from (region.start, region.end, region.flags, region.pgoff, region.vma)
            for slot in (region.seen.list, region.seen.rbtree, region.seen.maple):
                if isinstance(slot, str):
                    yield slot
    for finding in document.findings:
        yield from (finding.mm, finding.start, finding.end, finding.vma)
        yield from (item.address for item in finding.evidence)
        yield from (dump.address for dump in finding.dumps)
    for found in document.scan.findings if document.scan is not None else ():
        yield from (found.file, found.start)
        yield from (match.physical for match in found.matches)
        for owner in found.owners:
            yield from (owner.mm, owner.address, owner.start, owner.end)
    for memory_map in document.maps:
        yield memory_map.mm
        for row in memory_map.rows:
            yield from (row.start, row.end, row.vma)
            yield from (cell.address for cell in row.cells.values())
        for node in memory_map.nodes:
            yield from (node.address, node.parent, node.start, node.end)


def _integers(document: Document) -> Iterator[int]:
    for process in document.processes:
        yield from (process.pid, process.parent or 0, process.shares_with or 0)
        yield from (thread.tid for thread in process.threads)
        for counter in process.counters:
            # A word of a broken mm may have any value; more than that it cannot hold.
            yield from (counter.stored >> 1, counter.areas >> 1)
        yield from (view.regions for view in process.views)
    yield from (finding.pid for finding in document.findings)
    for found in document.scan.findings if document.scan is not None else ():
        yield from (found.size, found.more_matches, found.more_owners)
        yield from (number for match in found.matches for number in (match.offset, match.length))
        yield from (owner.pid for owner in found.owners)
    for missing in document.not_assessed:
        yield from (missing.pid or 0, missing.count)
    for memory_map in document.maps:
        yield memory_map.pid
        yield from (node.entries for node in memory_map.nodes)
    pages = document.provenance.coverage
    yield from (pages.ram, pages.present, pages.zero, pages.absent, document.provenance.file.size)


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", text) is not None
