"""Lines to check a rule by hand that several rules have, each under the name of the tool it is for.

``PID``, ``MM``, ``VMA``, ``NODE`` and ``ADDRESS`` stand for what a finding names.
"""

from __future__ import annotations

VM = "crash: vm PID"
SLAB = "crash: kmem -s ADDRESS  # the object's cache, and whether it is allocated"
VTOP = "crash: vtop -c PID ADDRESS"
I_MMAP = (
    'drgn: list(rbtree_inorder_for_each_entry("struct vm_area_struct", mapping.i_mmap.rb_root.address_of_(), '
    '"shared.rb"))'
)
ANON = (
    'drgn: list(rbtree_inorder_for_each_entry("struct anon_vma_chain", anon_vma.rb_root.rb_root.address_of_(), "rb"))'
)
LIST = "crash: list vm_area_struct.vm_next -s vm_area_struct.vm_start,vm_end,vm_prev -h <mm->mmap>"
RBTREE = "crash: tree -t rbtree -r mm_struct.mm_rb -o vm_area_struct.vm_rb MM"
MAPLE = "crash: tree -t maple -r mm_struct.mm_mt -v MM"
NODE = "crash: struct maple_arange_64 NODE, or struct maple_range_64 NODE for a leaf"
COUNTERS = "crash: struct mm_struct.map_count,total_vm,data_vm,exec_vm,stack_vm,locked_vm MM"
VMAS = "drgn: [(hex(v.vm_start), hex(v.vm_end)) for v in for_each_vma(mm)]"
