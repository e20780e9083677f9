"""The road that shows memory maps: the kernel's own code, the tables that lead to it, and who has a hand in it."""
