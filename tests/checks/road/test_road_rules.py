"""The rules on the kernel's code and tables, on a road made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from work import budget

from checks.handmade_operations import Doing, add_operations
from checks.handmade_views import Process, findings, views_of
from checks.road.handmade_road import CALLER, LISTED, NOBODYS, OTHER, READS, SHOWS, UNLISTED, road
from vmaforensics.arch.branches import BranchKind
from vmaforensics.checks.acquisition import Acquired
from vmaforensics.checks.context import MOST, Context
from vmaforensics.checks.finding import Severity
from vmaforensics.checks.registry import rule_modules
from vmaforensics.checks.weigh import run_checks
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.road.code_flow import FoundFlow, Way, WrongFlow
from vmaforensics.views.road.code_owners import CodeOwners, Owned, Owner
from vmaforensics.views.road.foreign_code import ForeignCode, FoundCode, Pages
from vmaforensics.views.road.loaded import Loaded, LoadedModules
from vmaforensics.views.road.pointers import Group, Leads, Pointers, Source
from vmaforensics.views.road.probes import FoundProbes, Probes
from vmaforensics.views.road.sites import FoundSites, SiteKind, Sites
from vmaforensics.views.road.tracers import Ops, Traced, Tracers
from vmaforensics.views.stacks.modules import Part

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

ON = 1 << 31
NONE = np.zeros(0, np.uint64)
RULES = [module.rule.id for module in rule_modules() if module.chapter == "road"]


@pytest.mark.parametrize("rule", RULES)
def test_a_road_that_is_the_kernel_s_own_is_nothing_to_report(rule: str) -> None:
    assert findings(road(), rule) == []
    assert findings(views_of(Process()), rule) == []


def pointer(source: Source, leads: Leads, target: int, group: Group | None = None) -> Views:
    """One pointer."""
    rows = Pointers.of(at=[SHOWS - 0x40], target=[target], source=[source], leads=[leads], word=[24])
    return road(pointers=rows, groups=[group or Group(name="proc_pid_maps_op", struct="seq_operations")])


@pytest.mark.parametrize("leads", [Leads.MODULE, Leads.OTHER, Leads.INSIDE, Leads.NOWHERE, Leads.UNLISTED])
def test_a_table_of_the_road_that_leads_elsewhere_is_found(leads: Leads) -> None:
    (finding,) = findings(pointer(Source.OPERATIONS, leads, LISTED), "PROC-OPS")
    assert finding.severity is Severity.HIGH
    assert "proc_pid_maps_op" in finding.title
    assert finding.start == SHOWS - 0x40


def test_an_inode_that_leads_to_a_copy_of_its_table_is_found() -> None:
    views = pointer(Source.OBJECT, Leads.NOWHERE, NOBODYS, Group(name="inode", struct="inode.i_fop"))
    (finding,) = findings(views, "PROC-OPS")
    assert "inode.i_fop" in finding.title


def test_what_is_closed_and_used_again_while_a_machine_runs_is_low() -> None:
    views = pointer(Source.OBJECT, Leads.NOWHERE, NOBODYS, Group(name="seq_file", struct="seq_file.op"))
    for acquired, severity in ((Acquired.ATOMIC, Severity.HIGH), (Acquired.LIVE, Severity.LOW)):
        (module,) = (module for module in rule_modules() if module.rule.id == "PROC-OPS")
        (finding,) = module.check(Context(views, acquired))
        assert finding.severity is severity


@pytest.mark.parametrize("executable", [False, True])
@pytest.mark.parametrize("leads", [Leads.NOWHERE, Leads.DATA])
def test_an_array_of_a_tracepoint_that_may_be_another_s_by_now_is_low(leads: Leads, *, executable: bool) -> None:
    views = pointer(Source.TRACEPOINT, leads, NOBODYS, Group(name="tracepoint"))
    assert views.road is not None
    if executable:
        pages = Pages.of(1, va=[NOBODYS & ~0xFFF])
        views.road = replace(views.road, foreign=replace(views.road.foreign, executable=pages))
    (module,) = (module for module in rule_modules() if module.rule.id == "KERNEL-TABLE")
    for acquired in (Acquired.ATOMIC, Acquired.LIVE):
        (finding,) = module.check(Context(views, acquired))
        low = acquired is Acquired.LIVE and not executable
        assert finding.severity is (Severity.LOW if low else Severity.HIGH)


def test_a_table_in_the_data_of_a_module_is_not_called_code_of_nobody() -> None:
    views = pointer(Source.OBJECT, Leads.MODULE, NOBODYS, Group(name="inode", struct="inode.i_fop"))
    (finding,) = findings(views, "PROC-OPS")
    assert finding.evidence[0].what == "inode.i_fop leads to a module"


def test_an_entry_of_a_module_is_its_own_business() -> None:
    group = Group(name="proc_dir_entry", struct="proc_dir_entry.proc_ops")
    assert findings(pointer(Source.PROC_ENTRY, Leads.MODULE, LISTED, group), "PROC-OPS") == []


@pytest.mark.parametrize(
    ("source", "leads", "severity"),
    [
        (Source.SYSCALL, Leads.NOWHERE, Severity.HIGH),
        (Source.SYSCALL, Leads.MODULE, Severity.MEDIUM),
        (Source.VECTOR, Leads.MODULE, Severity.HIGH),
        (Source.VECTOR, Leads.INSIDE, None),
        (Source.LSM, Leads.UNLISTED, Severity.HIGH),
        (Source.TRACEPOINT, Leads.MODULE, Severity.INFO),
        (Source.TRACEPOINT, Leads.MADE, None),
        (Source.VECTOR, Leads.OTHER, Severity.HIGH),
        (Source.SWITCH, Leads.FUNCTION, None),
        (Source.SWITCH, Leads.OTHER, Severity.HIGH),
        (Source.SWITCH, Leads.MODULE, Severity.HIGH),
        (Source.VECTOR_TABLE, Leads.DATA, None),
        (Source.VECTOR_TABLE, Leads.NOWHERE, Severity.HIGH),
    ],
)
def test_where_the_kernel_is_entered(source: Source, leads: Leads, severity: Severity | None) -> None:
    found = findings(pointer(source, leads, LISTED, Group(name="sys_call_table")), "KERNEL-TABLE")
    assert [finding.severity for finding in found] == ([] if severity is None else [severity])


def site(kind: BranchKind, target: int = 0, flags: int = 0, site: SiteKind = SiteKind.ENTRY) -> dict[str, FoundSites]:
    """One place that is patched."""
    rows = Sites.of(at=[SHOWS], site=[site], kind=[kind], target=[target], flags=[flags])
    return {"sites": FoundSites(sites=rows, entries=1, calls=0, labels=0, unread=0, places=NONE)}


def tracer(*, everything: bool = True, linked: bool = True, flags: int = 1, func: int = OTHER) -> dict[str, Tracers]:
    """One tracer, of all functions or of that which prints areas."""
    ops = Ops.of(ops=[NOBODYS], func=[func], linked=[linked], everything=[everything], flags=[flags])
    traced = Traced.of(ops=[] if everything else [0], ip=[] if everything else [SHOWS])
    return {"tracers": Tracers(ops=ops, traced=traced, whole=True)}


@pytest.mark.parametrize(
    ("kind", "target", "flags"),
    [
        (BranchKind.JUMP, LISTED, 0),
        (BranchKind.CALL, LISTED, ON | 1),
        (BranchKind.CALL, NOBODYS, ON | 1),
        (BranchKind.CALL, CALLER, 0),
        (BranchKind.CALL, CALLER, ON | 1),  # and nobody asked for it
        (BranchKind.BREAKPOINT, 0, 0),
        (BranchKind.OTHER, 0, 0),
    ],
)
def test_an_entry_that_no_record_accounts_for_is_found(kind: BranchKind, target: int, flags: int) -> None:
    (finding,) = findings(road(**site(kind, target, flags)), "TEXT-PATCHED")
    assert finding.severity is Severity.HIGH
    assert "show_map_vma" in finding.title


@pytest.mark.parametrize("everything", [True, False])
def test_a_function_that_a_tracer_on_the_list_traces_is_fine(everything: bool) -> None:
    views = road(**site(BranchKind.CALL, CALLER, ON | 1), **tracer(everything=everything))
    assert findings(views, "TEXT-PATCHED") == []


def test_a_function_whose_tracer_was_taken_off_the_list_is_found() -> None:
    views = road(**site(BranchKind.CALL, CALLER, ON | 1), **tracer(linked=False))
    assert [finding.severity for finding in findings(views, "TEXT-PATCHED")] == [Severity.HIGH]
    assert [finding.severity for finding in findings(views, "CODE-TRACED")] == [Severity.HIGH]


def test_while_the_kernel_patches_code_a_breakpoint_is_low() -> None:
    (finding,) = findings(road(**site(BranchKind.BREAKPOINT), patching=True), "TEXT-PATCHED")
    assert finding.severity is Severity.LOW


def test_a_static_call_that_leads_elsewhere_than_its_key_is_found() -> None:
    views = road(**site(BranchKind.CALL, LISTED, site=SiteKind.STATIC_CALL))
    (finding,) = findings(views, "TEXT-PATCHED")
    assert "static call" in finding.title


@pytest.mark.parametrize(
    ("keys", "target", "severity"),
    [
        ([0x10, 0x10], OTHER, Severity.INFO),
        ([0x10, 0x20], OTHER, Severity.HIGH),
        ([0x10, 0x10], NOBODYS, Severity.HIGH),
    ],
)
def test_a_change_of_a_static_call_changes_its_key_before_its_places(
    keys: list[int], target: int, severity: Severity
) -> None:
    """__static_call_update, kernel/static_call_inline.c: one key at a time, under static_call_mutex."""
    rows = Sites.of(
        at=[SHOWS, READS],
        site=[SiteKind.STATIC_CALL] * 2,
        record=keys,
        kind=[BranchKind.CALL] * 2,
        target=[target] * 2,
        expected=[LISTED] * 2,
    )
    views = road(sites=FoundSites(sites=rows, entries=1, calls=2, labels=0, unread=0, places=NONE))
    doing = Doing(pid=100, operation=Operation.REDIRECT, functions=("arch_static_call_transform",))
    for under_way, expected in ((False, Severity.HIGH), (True, severity)):
        if under_way:
            add_operations(views, doing)
        (finding,) = (found for found in run_checks(Context(views)) if found.rule.id == "TEXT-PATCHED")
        assert finding.severity is expected


@pytest.mark.parametrize(
    ("func", "everything", "severity"),
    [
        (OTHER, True, Severity.LOW),
        (OTHER, False, Severity.LOW),
        (LISTED, False, Severity.MEDIUM),
        (UNLISTED, False, Severity.HIGH),
        (NOBODYS, True, Severity.HIGH),
    ],
)
def test_a_tracer_is_told_with_its_owner(func: int, everything: bool, severity: Severity) -> None:
    (finding,) = findings(road(**tracer(func=func, everything=everything)), "CODE-TRACED")
    assert finding.severity is severity


@pytest.mark.parametrize(
    ("at", "handler", "severity"),
    [
        (SHOWS, OTHER, Severity.LOW),
        (OTHER, OTHER, Severity.INFO),
        (SHOWS, LISTED, Severity.MEDIUM),
        (READS, LISTED, Severity.LOW),
        (OTHER, LISTED, Severity.INFO),
        (OTHER, UNLISTED, Severity.HIGH),
        (SHOWS, NOBODYS, Severity.HIGH),
    ],
)
def test_a_kprobe_is_told_with_its_owner(at: int, handler: int, severity: Severity) -> None:
    probes = Probes.of(probe=[NOBODYS], addr=[at], pre_handler=[handler])
    found = FoundProbes(probes, (b"",), np.zeros(1, np.uint64), Part(NONE, NONE), whole=True)
    (finding,) = findings(road(probes=found), "KPROBE")
    assert finding.severity is severity


@pytest.mark.parametrize("executable", [False, True])
def test_a_kprobe_that_may_be_another_s_memory_by_now_is_low(*, executable: bool) -> None:
    """unregister_kprobe takes it out of the table (kernel/kprobes.c), then it is given back: the way was read first."""
    pages = Pages.of(va=[NOBODYS & ~0xFFF] if executable else [])
    probes = Probes.of(probe=[NOBODYS], addr=[SHOWS], pre_handler=[NOBODYS])
    views = road(probes=FoundProbes(probes, (b"",), np.zeros(1, np.uint64), Part(NONE, NONE), whole=True))
    assert views.road is not None
    views.road = replace(views.road, foreign=replace(views.road.foreign, executable=pages))
    (module,) = (module for module in rule_modules() if module.rule.id == "KPROBE")
    for acquired in (Acquired.ATOMIC, Acquired.LIVE):
        (finding,) = module.check(Context(views, acquired))
        low = acquired is Acquired.LIVE and not executable
        assert finding.severity is (Severity.LOW if low else Severity.HIGH)


def modules(**columns: list[object]) -> Views:
    """One module, on every record unless ``columns`` say otherwise."""
    at = 0xFFFF_FFFF_C020_0000
    known: dict[str, list[object]] = {"module": [at], "own": [at], "listed": [True], "in_tree": [True]}
    known |= {"in_sysfs": [True], "after": [at + 8], "name": [list(b"secret\0\0")]}
    rows = Loaded.of(**(known | columns))
    return road(loaded=LoadedModules(modules=rows, list_whole=True, tree_whole=True, sysfs_whole=True))


def test_a_module_on_every_record_is_nothing_to_report() -> None:
    assert findings(modules(), "MODULE-HIDDEN") == []


@pytest.mark.parametrize(
    "columns", [{"listed": [False]}, {"in_tree": [False]}, {"listed": [False], "in_sysfs": [False], "in_tree": [False]}]
)
def test_a_module_that_a_record_lacks_is_found(columns: dict[str, list[object]]) -> None:
    (finding,) = findings(modules(**columns), "MODULE-HIDDEN")
    assert finding.severity is Severity.HIGH
    assert "secret" in finding.title


def test_a_module_that_says_it_is_unformed_and_is_in_sysfs_is_found() -> None:
    (finding,) = findings(modules(state=[3]), "MODULE-HIDDEN")
    assert finding.severity is Severity.HIGH


def test_a_module_that_is_being_taken_down_is_low() -> None:
    (finding,) = findings(modules(state=[3], listed=[False], in_sysfs=[False]), "MODULE-HIDDEN")
    assert finding.severity is Severity.LOW


def wrong_flow(way: Way, target: int) -> Views:
    """An instruction inside of the function that prints areas."""
    rows = WrongFlow.of(at=[SHOWS + 0x20], target=[target], way=[way])
    return road(flow=replace(FoundFlow.none(), wrong=rows))


@pytest.mark.parametrize(
    ("way", "target"),
    [(Way.OUT, LISTED), (Way.OUT, NOBODYS), (Way.MIDDLE, OTHER + 8), (Way.CONSTANT, UNLISTED), (Way.STOPPED, 0)],
)
def test_code_that_goes_on_where_none_of_the_kernel_s_would_is_found(way: Way, target: int) -> None:
    (finding,) = findings(wrong_flow(way, target), "TEXT-PATCHED")
    assert (finding.severity, finding.start) == (Severity.HIGH, SHOWS + 0x20)
    assert finding.evidence[0].what == f"show_map_vma+0x20: {way.text}"


def test_what_the_kernel_was_about_to_patch_is_low_but_not_what_leads_to_nobody() -> None:
    (module,) = (module for module in rule_modules() if module.rule.id == "TEXT-PATCHED")
    for target, severity in ((LISTED, Severity.LOW), (NOBODYS, Severity.HIGH)):
        (finding,) = module.check(Context(wrong_flow(Way.OUT, target), Acquired.LIVE))
        assert finding.severity is severity


def foreign(start: int, *, released: bool = False) -> Views:
    """A page of executable memory that nobody owns."""
    code = ForeignCode.of(start=[start], end=[start + 0x1000], released=[released], writable=[True])
    found = FoundCode(
        code=code, first=(b"\x55\x48",), executable=Pages.zeros(1), unread=0, left_out=0, hidden=Loaded.of(0)
    )
    return road(foreign=found)


def test_executable_memory_of_nobody_is_found() -> None:
    (finding,) = findings(foreign(NOBODYS), "CODE-FOREIGN")
    assert finding.severity is Severity.HIGH
    assert "55 48" in finding.evidence[0].what
    assert finding.evidence[1].what == "no area of vmalloc holds it"


def test_executable_memory_of_nobody_is_low_where_its_owner_may_be_lost() -> None:
    views = foreign(NOBODYS)
    assert views.road is not None
    lists = ("the list of modules", "the tree of modules", "/sys/module")
    lost = replace(views, road=replace(views.road, cut_short=lists))
    assert [finding.severity for finding in findings(lost, "CODE-FOREIGN")] == [Severity.LOW]
    cut_by_hand = replace(views, road=replace(views.road, cut_short=lists[:1]))
    assert [finding.severity for finding in findings(cut_by_hand, "CODE-FOREIGN")] == [Severity.HIGH]


def test_what_a_cache_got_back_is_information() -> None:
    (finding,) = findings(foreign(NOBODYS, released=True), "CODE-FOREIGN")
    assert finding.severity is Severity.INFO


def test_code_of_a_hidden_module_is_told_with_the_module() -> None:
    assert findings(foreign(UNLISTED), "CODE-FOREIGN") == []


MANY = 100_000


def many(kind: BranchKind, target: int, site: SiteKind = SiteKind.ENTRY) -> dict[str, FoundSites]:
    """Places that are patched, one behind the other."""
    at = np.arange(MANY, dtype=np.uint64) * np.uint64(8) + np.uint64(SHOWS)
    columns = {"site": site, "kind": kind, "target": target, "flags": ON | 1}
    rows = Sites.of(at=at, **{name: np.full(MANY, value) for name, value in columns.items()})
    return {"sites": FoundSites(sites=rows, entries=MANY, calls=0, labels=0, unread=0, places=NONE)}


@pytest.mark.parametrize(
    ("kind", "target", "site"),
    [
        (BranchKind.JUMP, NOBODYS, SiteKind.ENTRY),
        (BranchKind.CALL, CALLER, SiteKind.ENTRY),  # and nobody asked for them
        (BranchKind.CALL, NOBODYS, SiteKind.STATIC_CALL),
    ],
)
def test_a_hundred_thousand_patched_places_are_one_bounded_finding(
    kind: BranchKind, target: int, site: SiteKind
) -> None:
    traced = Traced.of(ops=np.zeros(MANY), ip=np.full(MANY, LISTED))
    ops = Ops.of(ops=[NOBODYS], func=[OTHER], linked=[True], flags=[1])
    views = road(**many(kind, target, site), tracers=Tracers(ops=ops, traced=traced, whole=True))
    with budget(calls=20_000):
        (finding,) = findings(views, "TEXT-PATCHED")
    assert finding.title.endswith(f", and {MANY - 1} more")
    assert len(finding.evidence) <= MOST + 1


def test_a_hundred_thousand_probes_and_pointers_are_bounded_findings() -> None:
    probes = Probes.of(probe=np.full(MANY, NOBODYS), addr=np.full(MANY, SHOWS), pre_handler=np.full(MANY, LISTED))
    found = FoundProbes(probes, (b"",) * MANY, np.zeros(MANY, np.uint64), Part(NONE, NONE), whole=True)
    columns = {"source": Source.TABLE, "leads": Leads.NOWHERE, "target": NOBODYS, "at": SHOWS}
    pointers = Pointers.of(**{name: np.full(MANY, value) for name, value in columns.items()})
    with budget(calls=20_000):
        views = road(probes=found, pointers=pointers)
        told = [findings(views, rule) for rule in ("KPROBE", "PROC-OPS")]
    assert [len(rows) for rows in told] == [1, 1]
    assert all(len(finding.evidence) <= MOST + 1 for (finding,) in told)


def test_modules_of_one_name_are_told_without_the_code_of_each_other() -> None:
    count = 2_000
    at = np.arange(count, dtype=np.uint64) * np.uint64(0x1000) + np.uint64(0xFFFF_FFFF_C100_0000)
    name = np.tile(np.frombuffer(b"secret\0\0", np.uint8), (count, 1))
    rows = Loaded.of(module=at, own=at, name=name, state=np.zeros(count))
    ranges = Owned.of(start=at, end=at + np.uint64(8), owner=np.full(count, Owner.UNLISTED), name=np.arange(count))
    views = road(
        loaded=LoadedModules(modules=rows, list_whole=True, tree_whole=True, sysfs_whole=True),
        owners=CodeOwners(ranges=ranges, names=(b"secret",) * count),
    )
    with budget(calls=count * 300):
        found = findings(views, "MODULE-HIDDEN")
    assert all(len(finding.evidence) <= MOST + 2 for finding in found)


def test_a_patch_under_way_does_not_excuse_a_call_to_code_of_nobody() -> None:
    (finding,) = findings(road(**site(BranchKind.CALL, NOBODYS, ON | 1), patching=True), "TEXT-PATCHED")
    assert finding.severity is Severity.HIGH


@pytest.mark.parametrize("leads", [Leads.NOWHERE, Leads.MADE, Leads.FUNCTION])
def test_a_mapping_that_works_by_a_table_of_its_own_is_found(leads: Leads) -> None:
    views = pointer(Source.MAPPED, leads, NOBODYS, Group(name="vm_area_struct", struct="vm_area_struct.vm_ops"))
    vmas = views.vmas
    assert views.road is not None
    views.road.pointers.home[:] = vmas.vma[0]
    (finding,) = findings(views, "VMA-OPS")
    assert (finding.mm, finding.start) == (int(vmas.mm[0]), int(vmas.start[0]))
    assert "vm_area_struct.vm_ops" in finding.title


@pytest.mark.parametrize(("source", "constant"), [(Source.MAPPED, False), (Source.MAPPED_TABLE, True)])
def test_what_is_no_vma_any_more_is_not_judged_at_one_moment(source: Source, *, constant: bool) -> None:
    """Of an index that was torn: it leads to memory that holds something else, which names no process."""
    views = pointer(source, Leads.NOWHERE, NOBODYS, Group(name="vm_area_struct", struct="vm_area_struct.vm_ops"))
    (finding,) = findings(views, "VMA-OPS")
    assert (finding.mm, finding.at_once) == (0, constant)


@pytest.mark.parametrize("leads", [Leads.DATA, Leads.MODULE, Leads.UNLISTED])
def test_tables_of_the_kernel_and_of_modules_are_what_mappings_work_by(leads: Leads) -> None:
    assert findings(pointer(Source.MAPPED, leads, LISTED), "VMA-OPS") == []


@pytest.mark.parametrize(
    ("rule", "source"), [("VMA-OPS", Source.MAPPED), ("VMA-OPS", Source.MAPPED_TABLE), ("PROC-OPS", Source.TABLE)]
)
def test_a_module_that_has_nothing_to_do_with_it_is_found(rule: str, source: Source) -> None:
    views = pointer(source, Leads.MODULE, LISTED, Group(name="vm", struct="vm_operations_struct"))
    assert views.road is not None
    views.road.pointers.modular[:] = True
    assert findings(views, rule) == []
    views.road.pointers.alien[:] = True
    (finding,) = findings(views, rule)
    assert "leads to a module: " in finding.title
    assert "agent" in finding.title


def test_a_function_of_nobody_in_a_table_of_the_kernel_is_found() -> None:
    views = pointer(Source.MAPPED_TABLE, Leads.NOWHERE, NOBODYS, Group(name="vm", struct="vm_operations_struct"))
    (finding,) = findings(views, "VMA-OPS")
    assert finding.mm == 0
    assert findings(pointer(Source.MAPPED_TABLE, Leads.DATA, SHOWS), "VMA-OPS") == []  # a table in a table
