"""Stacks of the kernel: what every task and every CPU was doing."""

from __future__ import annotations
