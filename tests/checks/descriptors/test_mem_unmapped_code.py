"""MEM-UNMAPPED-CODE on files made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from checks.handmade_handles import INODE, MAPPING, add_handles
from checks.handmade_operations import Doing, add_operations
from checks.handmade_views import Process, findings, mm_of, views_of
from vmaforensics.checks.context import Context
from vmaforensics.checks.rule import Severity
from vmaforensics.checks.weigh import run_checks
from vmaforensics.views.descriptors.content import Content
from vmaforensics.views.descriptors.descriptors import Descriptors
from vmaforensics.views.descriptors.keepers import Keeper, KeptFiles
from vmaforensics.views.descriptors.sysv import Segments
from vmaforensics.views.operations.operation import Operation

if TYPE_CHECKING:
    from vmaforensics.views.views import Views


@pytest.mark.parametrize("content", list(Content))
def test_only_programs_are_code(content: Content) -> None:
    views = views_of(Process())
    add_handles(views, content=content)
    found = [finding.severity for finding in findings(views, "MEM-UNMAPPED-CODE")]
    assert found == {Content.ELF: [Severity.MEDIUM], Content.SCRIPT: [Severity.LOW], Content.CODE: [Severity.LOW]}.get(
        content, []
    )


def test_without_a_keeper_it_belongs_to_nobody() -> None:
    views = views_of(Process())
    add_handles(views)
    (found,) = findings(views, "MEM-UNMAPPED-CODE")
    assert found.title == "ELF in the memory file memfd:x that no VMA maps, kept by no descriptor that was found"
    assert (found.mm, found.evidence[0].address, found.evidence[0].found) == (0, INODE, "physical 0x7000")


def test_a_descriptor_that_keeps_it_is_named() -> None:
    views = views_of(Process(pid=100), Process(pid=101))
    handles = add_handles(views)
    row = Descriptors.of(1, pid=[101], fd=[5], slot=[0x9000], file=[0x8000], inode=[INODE])
    object.__setattr__(handles, "descriptors", row)
    (found,) = findings(views, "MEM-UNMAPPED-CODE")
    assert found.title.endswith("kept by descriptor 5 of process 101")
    assert (found.mm, found.evidence[1].address) == (mm_of(101), 0x9000)


def test_the_queue_of_a_socket_that_keeps_it_is_named() -> None:
    views = views_of(Process(pid=100))
    handles = add_handles(views)
    row = KeptFiles.of(1, keeper=[Keeper.QUEUE], slot=[0x9000], file=[0x8000], inode=[INODE], pid=[100], fd=[3])
    object.__setattr__(handles, "kept", row)
    (found,) = findings(views, "MEM-UNMAPPED-CODE")
    assert found.title.endswith("kept by the queue of a unix socket (by descriptor 3 of process 100)")
    assert found.mm == mm_of(100)


def test_a_segment_that_keeps_it_is_named() -> None:
    views = views_of(Process())
    add_handles(views, segments=Segments.of(1, id=[7], key=[-1], mapping=[MAPPING]))
    (found,) = findings(views, "MEM-UNMAPPED-CODE")
    assert found.title.endswith("kept by System V segment 7")
    assert "key 0xffffffff" in found.evidence[1].what


@pytest.mark.parametrize("where", ["i_mmap", "a VMA", "a path"])
def test_a_file_that_a_vma_or_a_path_leads_to_is_none(where: str) -> None:
    views = views_of(Process(vmas=("400000-401000 rw-s /memfd:x",)))
    files = add_handles(views).memory_files
    assert views.files is not None
    if where == "i_mmap":
        files.mapped[0] = True
    elif where == "a VMA":
        files.mapping[0] = views.files.rows.mapping[0]
    else:
        files.internal[0], files.nlink[0] = False, 1
    assert findings(views, "MEM-UNMAPPED-CODE") == []


@pytest.mark.parametrize(
    ("operation", "severity"),
    [
        (Operation.CLOSE, Severity.INFO),  # exit_task_work, kernel/exit.c: after exit_files
        (Operation.EXIT, Severity.INFO),  # __mmput lets go of the program last
        (Operation.DUMP, Severity.INFO),  # do_coredump opens a file without a descriptor
        (Operation.FAULT, Severity.MEDIUM),
    ],
)
def test_who_lets_go_of_a_file_or_dumps_into_it_accounts_for_one(operation: Operation, severity: Severity) -> None:
    views = views_of(Process(pid=100), Process(pid=101))
    add_handles(views)
    add_operations(views, Doing(pid=101, operation=operation))
    assert severities(views) == [severity]


def test_what_a_descriptor_keeps_is_no_file_that_is_let_go() -> None:
    views = views_of(Process(pid=100))
    handles = add_handles(views)
    row = Descriptors.of(1, pid=[100], fd=[5], slot=[0x9000], file=[0x8000], inode=[INODE])
    object.__setattr__(handles, "descriptors", row)
    add_operations(views, Doing(pid=100, operation=Operation.CLOSE))
    assert severities(views) == [Severity.MEDIUM]


@pytest.mark.parametrize(("who", "severity"), [(100, Severity.INFO), (101, Severity.MEDIUM)])
def test_a_program_is_not_mapped_yet_while_its_process_executes_it(who: int, severity: Severity) -> None:
    views = views_of(Process(pid=100, vmas=("400000-401000 r-xp /memfd:y",)), Process(pid=101))
    add_handles(views)
    assert views.files is not None
    views.files.rows.inode[0] = INODE
    views.mms.exe_file[0] = views.files.rows.file[0]
    add_operations(views, Doing(pid=who, operation=Operation.EXEC))
    (found,) = findings(views, "MEM-UNMAPPED-CODE")
    assert (found.mm, found.title.endswith("kept by process 100, whose program it is")) == (mm_of(100), True)
    assert severities(views) == [severity]


def severities(views: Views) -> list[Severity]:
    """Of what is found, weighed."""
    return [finding.severity for finding in run_checks(Context(views)) if finding.rule.id == "MEM-UNMAPPED-CODE"]
