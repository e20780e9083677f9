"""The CPU: all that is true of an image because its machine is an x86-64, behind one interface.

:mod:`~vmaforensics.arch.interface` has the interface; :mod:`~vmaforensics.arch.known` picks an architecture.
"""

from __future__ import annotations
