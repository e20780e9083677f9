"""The lines that ``by_hand`` fills in: what to type, by tool, and which rule asks for what.

A name in braces is a member of ``by_hand.Facts``. Of crash, release 9 is meant (``help tree``, ``help kmem`` …).
"""

from __future__ import annotations

from typing import Final, Literal

Tool = Literal["drgn", "crash", "volshell"]
TOOLS: Final[tuple[Tool, ...]] = ("drgn", "crash", "volshell")

# What comes before everything else.
BEGIN: dict[Tool, tuple[str, ...]] = {
    "drgn": ("from drgn.helpers.linux import *",),
    "crash": (),
    "volshell": (),
}

_MEMORY = 'layer_name=self.context.layers[self.kernel.layer_name].config["memory_layer"]'
_FLAGS = "vm_start,vm_end,vm_flags,vm_page_prot,vm_mm,vm_file,vm_pgoff"
_COUNTERS = ("map_count", "total_vm", "exec_vm", "data_vm", "stack_vm", "locked_vm")

# Steps: lines of each tool, by what they show.
STEPS: dict[str, dict[Tool, tuple[str, ...]]] = {
    "area": {
        "drgn": (
            'vma = Object(prog, "struct vm_area_struct *", {vma:#x})',
            "hex(vma.vm_start), hex(vma.vm_end), hex(vma.vm_flags), hex(vma.vm_page_prot.pgprot), hex(vma.vm_mm)",
        ),
        "crash": (f"struct vm_area_struct.{_FLAGS} {{vma:#x}}",),
        "volshell": ('dt("vm_area_struct", {vma:#x})',),
    },
    "index": {
        "drgn": (
            'mm = Object(prog, "struct mm_struct *", {mm:#x})',
            "hex(vma_find(mm, {at:#x}))",
            "[(hex(v.vm_start), hex(v.vm_end), hex(v)) for v in for_each_vma(mm)]",
        ),
        "crash": ("vm {pid}",),
        "volshell": (
            'mm = self.kernel.object("mm_struct", {mm:#x}, absolute=True)',
            "[(hex(v.vm_start), hex(v.vm_end), hex(v.vol.offset)) for v in mm.get_vma_iter()]",
        ),
    },
    "tree": {
        "drgn": (
            'mm = Object(prog, "struct mm_struct *", {tree:#x})',
            "[(hex(first), hex(last), hex(entry)) for first, last, entry in mt_for_each(mm.mm_mt.address_of_())]",
        ),
        "crash": ("tree -t maple -r mm_struct.mm_mt -v {tree:#x}",),
    },
    "list": {
        "crash": ("list vm_area_struct.vm_next -s vm_area_struct.vm_start,vm_end,vm_prev -h {head:#x}",),
    },
    "rbtree": {
        "drgn": (
            'mm = Object(prog, "struct mm_struct *", {head_of:#x})',
            "root = mm.mm_rb.address_of_()",
            '[hex(v.vm_start) for v in rbtree_inorder_for_each_entry("struct vm_area_struct", root, "vm_rb")]',
        ),
        "crash": ("tree -t rbtree -r mm_struct.mm_rb -o vm_area_struct.vm_rb {head_of:#x}",),
    },
    "node": {
        "drgn": ('print(Object(prog, "struct maple_node *", {node:#x}))',),
        "crash": ("struct maple_node {node:#x}",),
        "volshell": ("dq({node:#x}, 256)",),
    },
    "word": {
        "drgn": ("hex(prog.read_u64({word:#x}))",),
        "crash": ("rd -64 {word:#x}",),
        "volshell": ("dq({word:#x}, 16)",),
    },
    "counters": {
        "drgn": (
            'mm = Object(prog, "struct mm_struct *", {mm:#x})',
            f"print({', '.join(f'mm.{one}' for one in _COUNTERS)})",
        ),
        "crash": (f"struct mm_struct.{','.join(_COUNTERS)} {{mm:#x}}",),
        "volshell": (
            'mm = self.kernel.object("mm_struct", {mm:#x}, absolute=True)',
            f"{', '.join(f'int(mm.{one})' for one in _COUNTERS)}",
        ),
    },
    "resident": {
        "drgn": ('print(Object(prog, "struct mm_struct *", {mm:#x}).rss_stat)',),
        "crash": ("struct mm_struct.rss_stat {mm:#x}",),
        "volshell": ('dt(self.kernel.object("mm_struct", {mm:#x}, absolute=True).rss_stat)',),
    },
    "tables": {
        "drgn": ('print(Object(prog, "struct mm_struct *", {mm:#x}).pgtables_bytes)',),
        "crash": ("struct mm_struct.pgd,pgtables_bytes {mm:#x}",),
    },
    "memory": {
        "drgn": (
            'mm = Object(prog, "struct mm_struct *", {mm:#x})',
            "hex(follow_phys(mm, {at:#x}))",
            "access_remote_vm(mm, {at:#x}, 64)",
        ),
        "crash": ("set {pid}", "vtop -c {pid} {at:#x}", "rd -u -64 {at:#x} 8"),
        "volshell": ("ct({pid})", "db({at:#x}, 64)"),
    },
    "entry": {
        "drgn": ("hex(prog.read_u64({entry:#x}, physical=True))",),
        "crash": ("rd -p -64 {entry:#x}",),
        "volshell": (f"dq({{entry:#x}}, 16, {_MEMORY})",),
    },
    "frame": {
        "drgn": ("page = phys_to_page(prog, {frame:#x})", "decode_page_flags(page), hex(page.mapping)"),
        "crash": ("kmem -P {frame:#x}",),
    },
    "slab": {
        "drgn": ("slab_object_info(prog, {vma:#x})",),
        "crash": ("kmem -s {vma:#x}",),
    },
    "file": {
        "drgn": (
            'file = Object(prog, "struct file *", {file:#x})',
            "d_path(file.f_path)",
            "root = file.f_mapping.i_mmap.rb_root.address_of_()",
            '[hex(v) for v in rbtree_inorder_for_each_entry("struct vm_area_struct", root, "shared.rb")]',
        ),
        "crash": ("struct vm_area_struct.vm_file,vm_pgoff,shared {vma:#x}", "struct file.f_mapping,f_inode {file:#x}"),
        "volshell": ('dt("file", {file:#x})',),
    },
    "anon": {
        "drgn": (
            'vma = Object(prog, "struct vm_area_struct *", {vma:#x})',
            "chain = vma.anon_vma_chain.address_of_()",
            '[(hex(c.anon_vma), hex(c.vma)) for c in list_for_each_entry("struct anon_vma_chain", chain, "same_vma")]',
        ),
        "crash": ("list anon_vma_chain.same_vma -H {chain:#x} -s anon_vma_chain.vma,anon_vma",),
    },
    "task": {
        "drgn": (
            'task = Object(prog, "struct task_struct *", {task:#x})',
            "print(task.pid, task.comm, hex(task.mm), hex(task.active_mm))",
            "any(t == task for t in for_each_task(prog))",
        ),
        "crash": ("task {task:#x}", "struct task_struct.pid,comm,mm,active_mm,flags {task:#x}"),
        "volshell": (
            "task = gp(virtaddr={task:#x})",
            "task.pid, hex(task.mm), task.vol.offset in [t.vol.offset for t in lt()]",
        ),
    },
    "mm": {
        "drgn": (
            'mm = Object(prog, "struct mm_struct *", {mm:#x})',
            "print(mm.mm_users, mm.map_count, hex(mm.pgd), hex(mm.exe_file))",
        ),
        "crash": ("struct mm_struct.mm_users,map_count,pgd,exe_file {mm:#x}",),
        "volshell": ('dt("mm_struct", {mm:#x})',),
    },
    "registers": {
        "drgn": ("print(prog.stack_trace({pid}))",),
        "crash": ("bt -f {pid}",),
    },
    "handlers": {"crash": ("sig {pid}",)},
    "cpus": {
        "drgn": ('[hex(per_cpu(prog["cpu_tlbstate"], cpu).loaded_mm) for cpu in for_each_online_cpu(prog)]',),
        "crash": ("p cpu_tlbstate:a",),
    },
    "descriptors": {
        "drgn": ("[(fd, d_path(file.f_path)) for fd, file in for_each_file(find_task(prog, {pid}))]",),
        "crash": ("files {pid}",),
    },
    "segments": {"crash": ("ipcs -m",)},
}

_INDICES = ("index", "tree", "list")
_ENTRIES = ("memory", "entry", "frame", "area")

# Rule: the steps, in order.
CHECKS: dict[str, tuple[str, ...]] = {
    "VMA-UNLINKED": ("area", "index", "list", "rbtree"),
    "VMA-MISSING": ("counters", *_INDICES, "area", "memory"),
    "VMA-SURPLUS": ("counters", *_INDICES, "area"),
    "VMA-RANGE": ("area", "tree", "index"),
    "VMA-OWNER": ("area", *_INDICES),
    "VMA-BOUNDS": ("area", "index"),
    "VMA-ORDER": (*_INDICES, "area"),
    "VMA-BACKLINK": ("area", "list"),
    "VMA-LINK": ("word", "area", *_INDICES),
    "RB-SHAPE": ("area", "rbtree"),
    "RB-GAP": ("area", "rbtree"),
    "MT-NODE": ("node", "tree"),
    "MT-PIVOT": ("node", "tree"),
    "MT-NULL": ("node", "tree"),
    "MT-GAP": ("node", "tree"),
    "MT-ROOT": ("node", "word", "tree"),
    "MT-RESERVED": ("word", "tree"),
    "MM-COUNTER": ("counters", "index"),
    "PTE-ORPHAN": ("index", *_ENTRIES),
    "PTE-PERM": _ENTRIES,
    "PTE-KERNEL": _ENTRIES,
    "PTE-REMAP": (*_ENTRIES, "file"),
    "PTE-ERASED": ("frame", "memory", "area"),
    "TEXT-MODIFIED": ("area", "file", "memory", "entry", "frame"),
    "VMA-PROT": ("area",),
    "PT-SHARED": ("memory", "entry"),
    "PT-ISOLATION": ("tables", "word"),
    "MM-RSS": ("resident", "index"),
    "MM-PGTABLES": ("tables",),
    "RMAP-FILE-HIDDEN": ("area", "file", *_INDICES),
    "RMAP-ANON-HIDDEN": ("area", "anon", *_INDICES),
    "RMAP-FILE-MISSING": ("area", "file"),
    "RMAP-ANON-MISSING": ("area", "anon"),
    "RMAP-FILE-MISMATCH": ("area", "file"),
    "RMAP-TREE": ("word", "area", "file", "anon"),
    "THREAD-OUTSIDE": ("registers", "word", "index"),
    "ANCHOR-OUTSIDE": ("word", "mm", "index"),
    "HANDLER-OUTSIDE": ("handlers", "word", "index"),
    "MM-EXE-UNMAPPED": ("mm", "index"),
    "CPU-CR3-UNKNOWN": ("cpus", "word"),
    "MEM-UNMAPPED-CODE": ("descriptors",),
    "SHM-ATTACH-COUNT": ("segments", "word", "area"),
    "VMA-EXEC-MEMFD": ("area", "file", "memory"),
    "VMA-EXEC-DELETED": ("area", "file", "memory"),
    "VMA-EXEC-ANON": ("area", "memory"),
    "VMA-SLAB-ORPHAN": ("slab", "area", *_INDICES),
    "VMA-SLAB-STATE": ("slab", "area", "word", "index"),
    "TASK-HIDDEN": ("task",),
    "MM-HIDDEN": ("mm", "index", "task"),
    "MM-DECOY": ("task", "mm"),
    "TASK-KTHREAD-MM": ("task",),
}
ANY = ("area", "index", "word")  # of a rule that is not in the table
