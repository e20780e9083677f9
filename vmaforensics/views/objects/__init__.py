"""What a 64-bit value leads to: an object of the slab, a page, a stack, a symbol, memory of a process."""
