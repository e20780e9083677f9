"""The VM_* bits (include/linux/mm.h). Macros, so in no type information; these have been stable since 4.19."""

from __future__ import annotations

VM_READ = 1 << 0
VM_WRITE = 1 << 1
VM_EXEC = 1 << 2
VM_SHARED = 1 << 3
VM_MAYREAD = 1 << 4
VM_MAYWRITE = 1 << 5
VM_MAYEXEC = 1 << 6
VM_MAYSHARE = 1 << 7
VM_GROWSDOWN = 1 << 8
VM_PFNMAP = 1 << 10
VM_LOCKED = 1 << 13
VM_IO = 1 << 14
VM_SEQ_READ = 1 << 15
VM_RAND_READ = 1 << 16
VM_ACCOUNT = 1 << 20  # has been writable and private: stays when write permission is taken away
VM_HUGETLB = 1 << 22
VM_MIXEDMAP = 1 << 28
VM_HUGEPAGE = 1 << 29
VM_NOHUGEPAGE = 1 << 30
VM_MERGEABLE = 1 << 31  # KSM may be at work here

VM_DEVICE = VM_PFNMAP | VM_IO | VM_MIXEDMAP  # set by drivers that map memory of their own
