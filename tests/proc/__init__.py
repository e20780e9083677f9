"""Tests of the files of /proc that are written as the kernel writes them."""

from __future__ import annotations
