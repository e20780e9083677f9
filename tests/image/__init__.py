"""Readers and writers of images, on files built byte by byte in build.py."""

from __future__ import annotations
