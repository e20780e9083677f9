"""x86-64: Intel SDM, AMD APM, and arch/x86 of the kernel. Nothing outside ``arch/`` imports from here."""

from __future__ import annotations
