"""Turns an analysis into a result document."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from vmaforensics.checks.context import comm_of
from vmaforensics.checks.vmas.counters import EXACT, exact_counters, sum_vmas
from vmaforensics.image.memory import PAGE_SIZE, PageState
from vmaforensics.kernel.machine import hostname, read_clock
from vmaforensics.report.document import document as doc
from vmaforensics.report.document.attack import TECHNIQUES
from vmaforensics.report.document.by_hand import MOST as MOST_BY_HAND
from vmaforensics.report.document.by_hand import FactFinder, hand_checks
from vmaforensics.report.document.dumps import hexdumps
from vmaforensics.report.document.memory_maps import memory_maps
from vmaforensics.report.document.not_assessed import not_assessed
from vmaforensics.report.document.origins import parents, programs, starts
from vmaforensics.report.document.regions import regions_by_mm
from vmaforensics.report.document.subjects import subjects
from vmaforensics.version import __version__
from vmaforensics.views.processes.mms import Lock
from vmaforensics.views.vmas.flag_names import bit_names, flags_of
from vmaforensics.words.printable import printable
from vmaforensics.words.times import utc

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from vmaforensics.analysis import Analysis
    from vmaforensics.checks.finding import Finding
    from vmaforensics.image.image import Image
    from vmaforensics.kernel.machine import Clock
    from vmaforensics.views.processes.mms import Mms
    from vmaforensics.views.processes.tasks import Tasks

_PF_KTHREAD = 0x00200000  # include/linux/sched.h
_DEPENDENCIES = ("numpy", "construct", "pyelftools", "zstandard", "msgspec")


def build_document(
    analysis: Analysis, *, pids: Collection[int] | None = None, sha256: bool = False, contents: bool = True
) -> doc.Document:
    """The document of an analysis; with ``pids`` that of those processes only.

    Without ``contents`` no byte of a process's own memory is read.
    """
    clock = read_clock(analysis.kernel)
    chosen = [one for one in analysis.findings if pids is None or one.pid in pids]
    maps, left_out = memory_maps(analysis.kernel, analysis.views, chosen, pids)
    return doc.Document(
        schema=doc.Schema(),
        image=_image(analysis.image),
        kernel=_kernel(analysis, clock),
        processes=_processes(analysis, pids, clock),
        findings=_findings(analysis, chosen, contents),
        maps=maps,
        maps_left_out=left_out,
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


def _kernel(analysis: Analysis, clock: Clock | None) -> doc.KernelFacts:
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
        hostname=printable(hostname(analysis.kernel) or b""),
        booted=None if clock is None else utc(clock.booted // 10**9),
        clock=None if clock is None else utc(clock.now),
        crashed=_crashed(analysis),
        address_spaces=len(analysis.views.mms),
        views=tuple(view.label for view in analysis.views.available()),
    )


def _crashed(analysis: Analysis) -> str | None:
    """CRASHTIME of VMCOREINFO (crash_save_vmcoreinfo, kernel/vmcore_info.c): seconds, in decimal."""
    info = analysis.kernel.vmcoreinfo
    text = "" if info is None else info.values.get("CRASHTIME", "")
    return utc(int(text)) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _findings(analysis: Analysis, findings: list[Finding], contents: bool) -> list[doc.Finding]:
    kernel, views = analysis.kernel, analysis.views
    about = subjects(views, findings)
    dumps = hexdumps(kernel, views, findings, about, contents=contents)
    finder, bits = FactFinder(kernel, views), bit_names(kernel)
    out = []
    for at, (one, subject) in enumerate(zip(findings, about, strict=True)):
        by_hand = hand_checks(finder.facts(one, subject), one.rule) if at < MOST_BY_HAND else ()
        out.append(
            msgspec.structs.replace(
                finding(one),
                vma=None if subject.only is None else hex(int(subject.only["vma"])),
                flags=() if subject.only is None else tuple(flags_of(bits, int(subject.only["flags"]))),
                dumps=dumps[at] if at < len(dumps) else (),
                by_hand=by_hand,
            )
        )
    return out


def finding(one: Finding) -> doc.Finding:
    """A finding of the engine as a part of the document, without what the image has to be read for."""
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


def _processes(analysis: Analysis, pids: Collection[int] | None, clock: Clock | None) -> list[doc.Process]:
    views = analysis.views
    context, sums = analysis.context, analysis.context.shared(sum_vmas)
    stored = exact_counters(views.mms)
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
    origins = (
        programs(views, views.mm_rows(leaders["mm"])),
        parents(analysis.kernel, views, leaders),
        starts(analysis.kernel, clock, leaders),
    )
    for row, exe, parent, started, pid, comm, task, mm, flags in zip(
        rows, *origins, *(leaders[name].tolist() for name in columns), strict=True
    ):
        owner = first.setdefault(mm, pid) if mm else pid
        mine = row >= 0 and owner == pid
        out.append(
            doc.Process(
                pid=pid,
                comm=printable(comm_of(comm)),
                exe=exe,
                parent=parent,
                started=started,
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
                    doc.Counter(name=name, stored=int(stored[name][row]), areas=int(sums.exact[name][row]))
                    for name in EXACT
                )
                if row >= 0
                else (),
                regions=regions.get(mm, []) if mine else [],
            )
        )
    return out


def _with_memory(leaders: Tasks, mms: Mms) -> Tasks:
    """A leader that has exited has no mm, though its threads may go on: give it theirs."""
    owned = mms[np.argsort(mms["pid"], kind="stable")]
    if not len(owned):
        return leaders
    at = np.minimum(np.searchsorted(owned["pid"], leaders["pid"]), len(owned) - 1)
    theirs = (leaders.mm == 0) & (owned["pid"][at] == leaders.pid)
    return leaders.replace(mm=np.where(theirs, owned["mm"][at], leaders.mm))


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
            sha256=_sha256(image.path, image.memory.watch) if sha256 else None,
            details={printable(key): printable(value) for key, value in _details(image, sha256).items()},
        ),
        coverage=coverage(image),
        vmcoreinfo=identity.vmcoreinfo_source,
        symbols=identity.symbols_source,
        types=identity.types_source,
        translation=identity.translation_source,
    )


def _details(image: Image, sha256: bool) -> dict[str, str]:
    """Those of the image, and the further files of a split dump, with their hashes if asked for."""
    details = dict(image.details)
    for number, path in enumerate(image.others, 2):
        details[f"part {number}"] = str(path)
        if sha256:
            details[f"part {number} sha256"] = _sha256(path, image.memory.watch)
    return details


def _sha256(path: Path, watch: Callable[[int, int], None] | None) -> str:
    digest, done, size = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as stream:
        while block := stream.read(1 << 24):
            digest.update(block)
            done += len(block)
            if watch is not None:
                watch(done, size)
    return digest.hexdigest()


def coverage(image: Image) -> doc.Coverage:
    """Pages of RAM by state."""
    counts = image.memory.frame_counts()
    present, zero, absent = (int(counts[state]) for state in (PageState.PRESENT, PageState.ZERO, PageState.ABSENT))
    return doc.Coverage(ram=present + zero + absent, present=present, zero=zero, absent=absent)


def decode(raw: bytes) -> doc.Document:
    """Read a saved document. Raises ``msgspec.ValidationError`` if it is not one."""
    return msgspec.json.decode(raw, type=doc.Document)
