"""What is found, on clean images and on edited ones."""

from __future__ import annotations
