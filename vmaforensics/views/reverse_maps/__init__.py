"""i_mmap and anon_vma trees: from files and anonymous pages back to VMAs."""

from __future__ import annotations
