"""Turns an analysis into a result document."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from vmaforensics import __version__
from vmaforensics.checks.context import comm_of
from vmaforensics.checks.counters import EXACT, sum_areas
from vmaforensics.image.memory import PAGE_SIZE, PageState
from vmaforensics.report import document as doc
from vmaforensics.report.attack import TECHNIQUES
from vmaforensics.report.not_assessed import not_assessed
from vmaforensics.report.printable import printable
from vmaforensics.report.regions import regions_by_mm
from vmaforensics.views.mms import Lock

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from vmaforensics.analysis import Analysis
    from vmaforensics.checks.finding import Finding
    from vmaforensics.image.image import Image

_PF_KTHREAD = 0x00200000  # include/linux/sched.h
_DEPENDENCIES = ("numpy", "construct", "pyelftools", "zstandard", "msgspec")


def build_document(
    analysis: Analysis, *, pids: Collection[int] | None = None, sha256: bool = False
) -> doc.Document:
    """The document of an analysis; with ``pids`` that of those processes only."""
    return doc.Document(
        schema=doc.Schema(),
        image=_image(analysis.image),
        kernel=_kernel(analysis),
        processes=_processes(analysis, pids),
        findings=[finding(one) for one in analysis.findings if pids is None or one.pid in pids],
        maps=[],
        not_assessed=not_assessed(analysis),
        provenance=_provenance(analysis, sha256),
    )


def _image(image: Image) -> doc.ImageFacts:
    ranges = image.memory.ranges.tolist()
    return doc.ImageFacts(
        page_size=PAGE_SIZE,
        ram=hex(sum(end - start for start, end in ranges)),
        ranges=tuple((hex(start), hex(end)) for start, end in ranges[:1024]),
    )


def _kernel(analysis: Analysis) -> doc.KernelFacts:
    identity, tasks = analysis.kernel.identity, analysis.views.tasks
    leaders = tasks[tasks["leader"]]
    kernel_threads = int((((leaders["flags"] & _PF_KTHREAD) != 0) & leaders["ok"]).sum())
    return doc.KernelFacts(
        release=printable(identity.release),
        banner=printable(identity.banner),
        build_id=None if identity.build_id is None else printable(identity.build_id),
        architecture="x86-64",
        page_table_levels=identity.levels,
        page_table_isolation=identity.pti,
        kaslr_offset=None if identity.kaslr_offset is None else hex(identity.kaslr_offset),
        phys_base=identity.phys_base,
        processes=len(leaders) - kernel_threads,
        threads=len(tasks),
        kernel_threads=kernel_threads,
        hostname="",
        booted=None,
        clock=None,
        crashed=None,
        address_spaces=len(analysis.views.mms),
        views=tuple(view.label for view in analysis.views.available()),
    )


def finding(one: Finding) -> doc.Finding:
    """A finding of the engine as a part of the document."""
    key = f"{one.rule.id}:{one.mm:x}:{one.start or 0:x}"
    return doc.Finding(
        id=hashlib.sha256(key.encode()).hexdigest()[:12],
        rule=one.rule.id,
        rule_title=one.rule.title,
        severity=one.severity.value,
        confidence=one.confidence.value,
        pid=one.pid,
        comm=printable(one.comm),
        mm=hex(one.mm),
        start=None if one.start is None else hex(one.start),
        end=None if one.end is None else hex(one.end),
        title=printable(one.title),
        why=one.rule.why,
        lock=one.lock,
        vma=None,
        flags=(),
        dumps=(),
        by_hand=(),
        evidence=tuple(
            doc.Evidence(
                what=printable(item.what),
                view=item.view,
                address=hex(item.address) if item.address else None,
                found=item.found,
                expected=item.expected,
            )
            for item in one.evidence
        ),
        benign_causes=one.benign,
        attack=tuple(doc.Technique(id=name, name=TECHNIQUES[name]) for name in one.rule.attack),
    )


def _processes(analysis: Analysis, pids: Collection[int] | None) -> list[doc.Process]:
    views = analysis.views
    context, sums = analysis.context, sum_areas(analysis.context)
    tasks = views.tasks
    leaders = tasks[tasks["leader"]]
    if pids is not None:
        leaders = leaders[np.isin(leaders["tgid"], list(pids))]
    leaders = _with_memory(leaders[np.lexsort((leaders["task"], leaders["pid"]))], views.mms)
    wanted = views.mms["mm"][np.isin(views.mms["mm"], leaders["mm"])]
    regions = regions_by_mm(views, wanted)
    indices = views.regions()
    held = {view: dict(zip(*_counts(rows["mm"]), strict=True)) for view, rows in indices.items()}
    complete = {view: context.decoded(view, views.mms["mm"]).tolist() for view in indices}
    threads: dict[int, list[doc.Thread]] = {}
    others = tasks[~tasks["leader"]]
    for tgid, tid, comm, task in zip(*(others[name].tolist() for name in ("tgid", "pid", "comm", "task")), strict=True):
        threads.setdefault(tgid, []).append(doc.Thread(tid=tid, comm=printable(comm_of(comm)), task=hex(task)))
    rows = views.mm_rows(leaders["mm"]).tolist()
    first: dict[int, int] = {}
    out = []
    columns = ("pid", "comm", "task", "mm", "flags")
    for row, pid, comm, task, mm, flags in zip(rows, *(leaders[name].tolist() for name in columns), strict=True):
        owner = first.setdefault(mm, pid) if mm else pid
        mine = row >= 0 and owner == pid
        out.append(
            doc.Process(
                pid=pid,
                comm=printable(comm_of(comm)),
                exe="",
                parent=None,
                started=None,
                kind="user" if mm else "kernel" if flags & _PF_KTHREAD else "exited",
                task=hex(task),
                mm=hex(mm) if mm else None,
                lock=Lock(int(views.mms["lock"][row])).text if row >= 0 else None,
                shares_with=None if owner == pid else owner,
                threads=tuple(threads.get(pid, ())),
                views=tuple(
                    doc.ViewSummary(view=view.label, regions=held[view].get(mm, 0), complete=complete[view][row])
                    for view in indices
                )
                if row >= 0
                else (),
                counters=tuple(
                    doc.Counter(name=name, stored=int(views.mms[name][row]), areas=int(sums.columns[name][row]))
                    for name in EXACT
                )
                if row >= 0
                else (),
                regions=regions.get(mm, []) if mine else [],
            )
        )
    return out


def _with_memory(leaders: NDArray[np.void], mms: NDArray[np.void]) -> NDArray[np.void]:
    """A leader that has exited has no mm, though its threads may go on: give it theirs."""
    owned = mms[np.argsort(mms["pid"], kind="stable")]
    if not len(owned):
        return leaders
    at = np.minimum(np.searchsorted(owned["pid"], leaders["pid"]), len(owned) - 1)
    rows = leaders.copy()
    theirs = (rows["mm"] == 0) & (owned["pid"][at] == rows["pid"])
    rows["mm"][theirs] = owned["mm"][at[theirs]]
    return rows


def _counts(mm: np.ndarray) -> tuple[list[int], list[int]]:
    values, counts = np.unique(mm, return_counts=True)
    return values.tolist(), counts.tolist()


def _provenance(analysis: Analysis, sha256: bool) -> doc.Provenance:
    image, identity = analysis.image, analysis.kernel.identity
    return doc.Provenance(
        tool="vmaforensics",
        version=__version__,
        python=platform.python_version(),
        dependencies={name: importlib.metadata.version(name) for name in _DEPENDENCIES},
        file=doc.FileFacts(
            path=printable(str(image.path)),
            size=image.size,
            format=image.format,
            sha256=_sha256(image) if sha256 else None,
            details={printable(key): printable(value) for key, value in image.details.items()},
        ),
        coverage=coverage(image),
        vmcoreinfo=identity.vmcoreinfo_source,
        symbols=identity.symbols_source,
        types=identity.types_source,
        translation=identity.translation_source,
    )


def _sha256(image: Image) -> str:
    with image.path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def coverage(image: Image) -> doc.Coverage:
    """Pages of RAM by state."""
    counts = image.memory.frame_counts()
    present, zero, absent = (int(counts[state]) for state in (PageState.PRESENT, PageState.ZERO, PageState.ABSENT))
    return doc.Coverage(ram=present + zero + absent, present=present, zero=zero, absent=absent)


def decode(raw: bytes) -> doc.Document:
    """Read a saved document. Raises ``msgspec.ValidationError`` if it is not one."""
    return msgspec.json.decode(raw, type=doc.Document)
