"""Text for people: strings of an image made printable, amounts, permissions, points in time."""

from __future__ import annotations
