"""Where the memory went, on the page: reports of the OOM killer, and the guest's own /proc."""

from __future__ import annotations

import re
import tarfile
from typing import TYPE_CHECKING

import pytest
from handmade import PAGE, Machine
from support import ROOT, Truth
from views.handmade_log import RING, Ring

from vmaforensics.crash.memory_case import read_memory_case
from vmaforensics.crash.memory_document import OomTask
from vmaforensics.crash.oom_report import last_oom_report
from vmaforensics.image.open import open_image
from vmaforensics.kernel.find import find_kernel
from vmaforensics.progress import unheard
from vmaforensics.views.log.log import read_log
from vmaforensics.views.memory.figures import read_figures
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.processes.tasks import walk_tasks

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.crash.memory_document import OomPart

INVOKED = "stress invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0, oom_score_adj=0"
# dump_tasks of 5.10, and of 6.12, which tells kinds of resident pages apart.
OLD = "[  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name"
NEW = "[  pid  ]   uid  tgid total_vm      rss rss_anon rss_file rss_shmem pgtables_bytes swapents oom_score_adj name"
KILLED = "Out of memory: Killed process 294 (stress) total-vm:395776kB, anon-rss:367488kB, file-rss:4kB"


def report(*lines: str, facility: int = 0) -> OomPart | None:
    machine = Machine(RING, pages=128)
    log = Ring(machine=machine, count_bits=8, size_bits=14)
    for line in lines:
        log.write(line.encode(), facility=facility, caller=7)
    found = read_log(machine.kernel())
    assert found is not None
    return last_oom_report(found, PAGE)


def test_a_table_of_old_and_of_new_kernels() -> None:
    old = report(INVOKED, OLD, "[    294]     0   294    98944    92213   811008     3296             0 stress", KILLED)
    row = "[    294]     0   294    98944    92213    91872        0       341   811008     3296             0 stress"
    new = report(INVOKED, NEW, row, KILLED)
    for found in (old, new):
        assert found is not None
        assert found.largest == [OomTask(pid=294, name="stress", resident=92213 * PAGE, swapped=3296 * PAGE)]
        assert found.killed == KILLED


@pytest.mark.parametrize("name", ["a b", "1 2 3", "x) 9\t", "[  1]  2 3", "0"])
def test_names_may_hold_anything(name: str) -> None:
    found = report(INVOKED, OLD, f"[     12]     0    12      100       50    40960        1          -100 {name}")
    assert found is not None
    assert [(task.pid, task.resident) for task in found.largest] == [(12, 50 * PAGE)]
    assert found.largest[0].name.startswith(name.split("\t")[0].strip())


def test_numbers_that_no_machine_has_are_not_believed() -> None:
    found = report(INVOKED, OLD, f"[     12]     0    12      100  {'9' * 40}    40960        1          -100 x")
    assert found is not None
    assert found.largest == []


def test_the_last_of_several_reports_counts() -> None:
    first = "[      1]     0     1      100       50    40960        1             0 first"
    second = first.replace("first", "second")
    found = report(INVOKED, OLD, first, INVOKED, OLD, second)
    assert found is not None
    assert [task.name for task in found.largest] == ["second"]
    assert found.killed is None


def test_what_a_program_writes_is_no_report() -> None:
    assert report(INVOKED, OLD, KILLED, facility=1) is None
    assert report("nothing of this kind") is None


def guests() -> list[Path]:
    """Images of the recipe with what the guest itself said."""
    found = sorted(ROOT.glob("build/images/debian-*.elf"))
    return [path for path in found if path.with_suffix(".truth.tar").exists()]


# What writing the truth out does not change: it fills page caches and needs a few processes and slabs.
STEADY = (
    "MemTotal", "Mlocked", "Unevictable", "SwapTotal", "Percpu", "CommitLimit", "HugePages_Total", "HugePages_Free",
    "HugePages_Rsvd", "HugePages_Surp", "Hugepagesize", "Hugetlb", "HardwareCorrupted", "SecPageTables",
)  # fmt: skip
RESTING = [
    pytest.param(path, id=path.stem) for path in guests() if path.stem.count("-") == 1 or path.stem.endswith("-rt")
]


def smaps_of(truth: Path) -> dict[int, int]:
    """KiB that ``smaps`` of each process adds up to, by pid."""
    found = {}
    with tarfile.open(truth) as tar:
        for entry in tar:
            name = re.fullmatch(r"(\./)?proc/(\d+)/smaps", entry.name)
            stream = tar.extractfile(entry) if name else None
            if name is not None and stream is not None:
                sizes = [int(line.split()[1]) for line in stream.read().splitlines() if line.startswith(b"Rss:")]
                found[int(name[2])] = sum(sizes)
    return found


@pytest.mark.image
@pytest.mark.skipif(not RESTING, reason="the recipe's guests have not been made")
@pytest.mark.parametrize("path", RESTING)
def test_figures_and_slabs_are_those_of_the_guest(path: Path) -> None:
    kernel = find_kernel(open_image(path), unheard)
    truth = Truth(path.with_suffix(".truth.tar"))
    said = {line.split(":")[0]: int(line.split()[1]) for line in truth["proc/meminfo"].decode().splitlines()}
    figures = read_figures(kernel)
    found = {figure.name: figure.value for figure in figures.known}
    assert figures.unknown == []
    assert {name: found[name] for name in STEADY if name in found} == {
        name: said[name] for name in STEADY if name in said
    }
    assert set(found) <= set(said)
    # What has become less free has become page cache, anonymous memory, slab or page tables.
    grown = sum(found[name] - said[name] for name in ("Buffers", "Cached", "AnonPages", "Slab", "PageTables"))
    # Pages on the lists of CPUs are not free: as many as were there then, and are now, may have come or gone.
    assert figures.on_cpus is not None
    before = 4 * sum(int(count) for count in re.findall(rb"^ +count: +(\d+)", truth["proc/zoneinfo"], re.M))
    assert -1024 - before < said["MemFree"] - found["MemFree"] - grown < 1024 + figures.on_cpus
    tasks = walk_tasks(kernel, ProblemLog())
    memory = read_memory_case(kernel, tasks)
    assert memory.mms is not None and memory.rss is not None
    resident = dict(zip(memory.mms.pid.tolist(), (4 * memory.rss[:, [0, 1, 3]].sum(axis=1)).tolist(), strict=True))
    known = smaps_of(path.with_suffix(".truth.tar"))
    shown = resident.keys() & known.keys()  # of those that share an address space, one
    assert len(shown) > 50
    assert len([pid for pid in shown if resident[pid] != known[pid]]) <= 1  # who wrote it down
    use = memory.slabs
    assert use is not None and use.whole
    lines = [line.split() for line in truth["proc/slabinfo"].decode().splitlines()[2:]]
    objects = dict(zip((name.decode() for name in use.names.tolist()), use.caches.objects.tolist(), strict=True))
    assert objects.keys() == {line[0] for line in lines}
    assert sum(objects[line[0]] == int(line[2]) for line in lines) > 0.9 * len(lines)
