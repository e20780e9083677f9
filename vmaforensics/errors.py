"""What can go wrong, as nouns, each with the exit code the command line maps it to.

A message is one sentence: what, where, what was expected, what to do.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the ``vmaforensics`` command; part of its interface."""

    OK = 0
    FINDINGS = 1  # findings at or above a severity the caller asked to fail on
    USAGE = 2  # argparse's own
    IMAGE_UNREADABLE = 10
    FORMAT_UNSUPPORTED = 11
    SYMBOLS_MISSING = 12
    INCOMPLETE = 13
    OUTPUT = 14
    RULES = 15
    DOCUMENT_INVALID = 20
    INTERNAL = 70
    HUNG_UP = 129
    INTERRUPTED = 130
    PIPE_CLOSED = 141
    TERMINATED = 143


class VmaForensicsError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = ExitCode.INTERNAL


class ImageUnreadableError(VmaForensicsError):
    """The image file is missing, empty, or cannot be opened."""

    exit_code = ExitCode.IMAGE_UNREADABLE


class UnsupportedFormatError(VmaForensicsError):
    """The file is not an image of a format we read, or its headers cannot be believed."""

    exit_code = ExitCode.FORMAT_UNSUPPORTED


class KernelNotFoundError(VmaForensicsError):
    """No Linux kernel, or no symbols or types for it, could be found in the image."""

    exit_code = ExitCode.SYMBOLS_MISSING


class SymbolFileError(KernelNotFoundError):
    """A symbol file that was given cannot be read, or is not that of the kernel in the image."""


class OutputError(VmaForensicsError):
    """The output exists already, or cannot be written."""

    exit_code = ExitCode.OUTPUT


class UsageError(VmaForensicsError):
    """What was asked for does not exist in this image (a pid, say)."""

    exit_code = ExitCode.USAGE


class RulesError(VmaForensicsError):
    """YARA rules that were given cannot be read or compiled."""

    exit_code = ExitCode.RULES


class MemoryReadError(VmaForensicsError):
    """A read that had to succeed touched bytes the image does not hold.

    ``address`` is the first address asked for and ``layer`` says of which kind it is
    (``physical`` or ``kernel``).
    """

    def __init__(self, address: int, size: int, layer: str, why: str) -> None:
        super().__init__(f"cannot read {size} bytes at {layer} address {address:#x}: {why}")
        self.address = address
        self.size = size
        self.layer = layer
