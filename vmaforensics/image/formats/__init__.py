"""Readers of formats whose memory lies in segments."""

from __future__ import annotations
