"""Tables as structures of arrays, and the primitives they are looked up and joined with.

:mod:`~vmaforensics.columns.table` has the tables; :mod:`~vmaforensics.columns.lookup`,
:mod:`~vmaforensics.columns.runs` and :mod:`~vmaforensics.columns.ragged` what is done with their columns.
"""

from __future__ import annotations
