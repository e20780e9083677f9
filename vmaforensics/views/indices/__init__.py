"""The indices of an address space's VMAs: vm_next list, red-black tree, maple tree."""

from __future__ import annotations
