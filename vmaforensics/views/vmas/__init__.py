"""The vm_area_struct objects, their files, paths and names."""

from __future__ import annotations
