"""Rules on tasks and address spaces that one record knows and another leaves out."""

from __future__ import annotations
