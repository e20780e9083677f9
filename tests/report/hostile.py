"""Strings that act on what shows them, in documents made by hand and in a copy of a sample's memory."""

from __future__ import annotations

import itertools
from functools import cache
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from support import TAMPERED, Edit, Sample, leader

from vmaforensics.report.document.build import build_document
from vmaforensics.report.document.document import Document
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from vmaforensics.analysis import Analysis

# Each is one trick; as bytes, the way names lie in memory.
NAMES: tuple[bytes, ...] = (
    b"\x1b]0;owned\x07\x1b[2J",
    b"a\nVERDICT   fine",
    b"a\r\nb\x0b\x0c\x85",
    "\u202egnp.exe\u2066\u200b".encode(),
    "\u2028line\u2029".encode(),
    b"<script>alert(1)</script>",
    b"<img src=x onerror=alert(1)>",
    b"]]>--><!--&lt;b&#x3e;",
    b"=HYPERLINK(1)",
    b"+1+1|'/c calc'!A0",
    b"-2+3;=cmd|x",
    b"@SUM(1+1)\t=1",
    b"  =1+1",
    "\uff1d1+1".encode(),
    b'",=1+1,"',
    b"a\\|b|c`d``e```",
    b"# h [x](http://e) *b* _u_ ~~s~~",
    b"![i](http://e/i.png) www.e.org a@e.org @team #1",
    b"$(id) `id` ; id",
    b"{{7*7}} {% x %} ${x} %s%n",
    b"[bold red]x[/] [link=http://e]y[/link]",
    b"\xff\xfe\xc3\x28",
    b"\xed\xa0\x80lone",
    b"\xf3\xa0\x81\x81tag",
    b"\x9b31mC1",
    b"../../../etc/passwd",
    b"",
    b"   ",
)
# As text, with what no bytes of a file name can be: lone surrogates, a NUL, very long names.
TEXTS: tuple[str, ...] = (
    *(name.decode("utf-8", "surrogateescape") for name in NAMES),
    "\ud800\udfff\udc80",
    "nul\0l",
    "A" * 4096,
    "`" * 4096,
    "=" * 4096,
    "\u202e" * 4096,
)

# Members that hold text of the image, or text that is made with it.
_MEMBERS = frozenset(
    {
        "comm",
        "exe",
        "name",
        "title",
        "what",
        "why",
        "found",
        "expected",
        "banner",
        "release",
        "hostname",
        "path",
        "rule_title",
        "lock",
        "benign_causes",
        "lines",
        "symbols",
        "types",
        "translation",
        "vmcoreinfo",
        "note",
        "wrong",
        "details",
        "format",
    }
)


def handmade(document: Document) -> Document:
    """``document`` with a hostile string in each place that holds text."""
    texts = itertools.cycle(TEXTS)

    def changed(value: object, member: str) -> object:
        if isinstance(value, dict):
            if member == "schema":
                return value
            return {key: changed(item, "details" if member == "details" else key) for key, item in value.items()}
        if isinstance(value, list):
            return [changed(item, member) for item in value]
        return next(texts) if isinstance(value, str) and member in _MEMBERS else value

    return msgspec.convert(changed(msgspec.to_builtins(document), ""), Document)


@cache
def planted() -> Analysis:
    """The tampered sample with hostile names in its memory: of tasks, of files and memory files, in the banner."""
    sample = TAMPERED[0]
    edit = Edit(sample.analysis)
    kernel, views = edit.clean.kernel, edit.clean.views
    names = itertools.cycle(NAMES)
    suspect = max(edit.clean.findings, key=lambda finding: -finding.severity.rank).pid
    tasks = views.tasks.take(views.tasks.leader)
    pids = [suspect, *(pid for pid in tasks.pid.tolist() if pid != suspect)]
    for pid, name in zip(pids, NAMES, strict=False):
        task = int(leader(edit.clean, pid).task)
        edit.write(edit.at("task_struct", task, "comm"), name[:15].ljust(16, b"\0"))
    assert views.files is not None
    dentries = np.unique(views.files.rows.dentry[views.files.rows.dentry != 0])
    starts, ok = kernel.gather_member("dentry", "d_name.name", dentries)
    sizes, _ = kernel.gather_member("dentry", "d_name.len", dentries)
    for at, size in zip(starts[ok].tolist(), sizes[ok].tolist(), strict=True):
        # Without a slash or a NUL, which a name cannot hold; as long as the old one.
        name = next(names).replace(b"/", b"\\")
        fitting = (name + b"x" * size)[:size] if len(name) <= size else b""
        if fitting and at % 4096 + size <= 4096:
            edit.write(at, fitting)
    banner = kernel.symbols.get("linux_banner")
    assert banner is not None
    edit.write(banner + len(b"Linux version 6.1.0-56-amd64 "), b"\x1b]0;x\x07\xe2\x80\xae<b>=1|`")
    return edit.again()


@cache
def planted_document() -> Document:
    """The document of :func:`planted`."""
    return build_document(planted())


@cache
def tampered_document() -> Document:
    """The document of the tampered sample."""
    return build_document(tampered_sample().analysis)


def tampered_sample() -> Sample:
    """The bundled sample that was edited."""
    return TAMPERED[0]


def inert(text: str) -> bool:
    """Is there no character that acts on a terminal, in text whose lines end with a newline?"""
    return all(printable(line) == line for line in text.split("\n"))
