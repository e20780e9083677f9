"""Rules on the road that shows memory maps: the kernel's code, its tables of functions, and its modules."""
