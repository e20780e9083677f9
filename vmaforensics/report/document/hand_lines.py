"""The lines that ``by_hand`` fills in: what to type, by tool. Each rule names its steps.

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
    "vma": {
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
            f"print({', '.join(f'mm.{name}' for name in _COUNTERS)})",
        ),
        "crash": (f"struct mm_struct.{','.join(_COUNTERS)} {{mm:#x}}",),
        "volshell": (
            'mm = self.kernel.object("mm_struct", {mm:#x}, absolute=True)',
            f"{', '.join(f'int(mm.{name})' for name in _COUNTERS)}",
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
    "code": {
        "drgn": ("prog.read({word:#x}, 16).hex()", "prog.symbol({word:#x})"),
        "crash": ("dis {word:#x} 4", "sym {word:#x}"),
        "volshell": ("dis({word:#x}, 16)",),
    },
    "kprobe": {
        "drgn": ('print(Object(prog, "struct kprobe *", {word:#x}))',),
        "crash": ("struct kprobe {word:#x}",),
        "volshell": ('dt("kprobe", {word:#x})',),
    },
    "modules": {
        "drgn": (
            'modules = list_for_each_entry("struct module", prog["modules"].address_of_(), "list")',
            "[(hex(m), m.name.string_().decode()) for m in modules]",
        ),
        "crash": ("mod",),
    },
}
