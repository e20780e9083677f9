"""A road made by hand: the kernel's code from TEXT on, a module on the list, one that is not; the rest is empty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from handmade import LINUX, Machine

from checks.handmade_views import Process, views_of
from vmaforensics.views.road.bpf import FoundPrograms, Programs
from vmaforensics.views.road.code_flow import FoundFlow
from vmaforensics.views.road.code_owners import CodeOwners, Owned, Owner
from vmaforensics.views.road.foreign_code import ForeignCode, FoundCode, Pages
from vmaforensics.views.road.functions import Functions
from vmaforensics.views.road.livepatch import Replaced
from vmaforensics.views.road.loaded import Loaded, LoadedModules
from vmaforensics.views.road.module_uses import ModuleUses
from vmaforensics.views.road.pointers import Group, Pointers
from vmaforensics.views.road.probes import FoundProbes, Probes
from vmaforensics.views.road.proc_objects import Held
from vmaforensics.views.road.road import RoadView
from vmaforensics.views.road.sites import FoundSites, Sites
from vmaforensics.views.road.text import ComparedText
from vmaforensics.views.road.tracers import Ops, Traced, Tracers
from vmaforensics.views.stacks.modules import Part
from vmaforensics.views.stacks.programs import Programs as Symbols

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

TEXT = 0xFFFF_FFFF_8100_0000
SHOWS, READS, OTHER = TEXT + 0x1000, TEXT + 0x2000, TEXT + 0x3000  # functions: prints areas, on the road, beside it
CALLER = TEXT + 0x8000  # ftrace_caller
LISTED, UNLISTED = 0xFFFF_FFFF_C000_0000, 0xFFFF_FFFF_C010_0000  # code of modules
NOBODYS = 0xFFFF_8880_0123_4000
NONE = np.zeros(0, np.uint64)


class Names:
    """Names of functions."""

    def name(self, address: int) -> str:
        """FUNCTION or FUNCTION+0xOFFSET."""
        known = {SHOWS: "show_map_vma", READS: "mem_read", OTHER: "do_sys_open", CALLER: "ftrace_caller"}
        start = address & ~0xFFF
        name = known.get(start, "text")
        return name + (f"+{address - start:#x}" if address != start else "")

    def member(self, struct: str, offset: int) -> str:
        """The member of a structure."""
        return f"m{offset}"


def road(**parts: Any) -> Views:  # noqa: ANN401 - fields of RoadView
    """Views with a road; ``parts`` replace what is there by default."""
    owned = Owned.of(
        start=[TEXT, LISTED, UNLISTED],
        end=[TEXT + 0x10_0000, LISTED + 0x1000, UNLISTED + 0x1000],
        owner=[Owner.KERNEL, Owner.MODULE, Owner.UNLISTED],
        name=[-1, 0, 1],
    )
    fields: dict[str, Any] = {
        "functions": Functions(
            np.array([SHOWS, READS], np.uint64),
            np.array([SHOWS + 0x100, READS + 0x100], np.uint64),
            np.array([True, False]),
        ),
        "loaded": LoadedModules(modules=Loaded.of(0), list_whole=True, tree_whole=True, sysfs_whole=True),
        "owners": CodeOwners(ranges=owned, names=(b"agent", b"hidden")),
        "uses": ModuleUses(Machine(LINUX).kernel(), NONE),
        "sites": FoundSites(sites=Sites.zeros(0), entries=1, calls=1, labels=1, unread=0, places=NONE),
        "flow": FoundFlow.none(),
        "text": ComparedText.none(),
        "callers": np.array([CALLER], np.uint64),
        "tracers": Tracers(ops=Ops.zeros(0), traced=Traced.zeros(0), whole=True),
        "probes": FoundProbes(Probes.zeros(0), (), NONE, Part(NONE, NONE), whole=True),
        "programs": FoundPrograms(
            Programs.zeros(0),
            NONE.astype(np.uint32),
            (),
            (),
            NONE,
            NONE,
            Symbols.zeros(0),
            Part(NONE, NONE),
            whole=True,
        ),
        "replaced": Replaced.zeros(0),
        "pointers": Pointers.zeros(0),
        "groups": [Group(name="proc_pid_maps_op", struct="seq_operations")],
        "wanted": [("show_map",)],
        "unread": 0,
        "cut_short": (),
        "foreign": FoundCode(
            code=ForeignCode.zeros(0), first=(), executable=Pages.zeros(0), unread=0, left_out=0, hidden=Loaded.of(0)
        ),
        "held": Held.zeros(0),
        "patching": False,
        "named": True,
        "list_offset": 8,
        "symbols": Names(),
    }
    views = views_of(Process())
    views.road = RoadView(**(fields | parts))
    return views
