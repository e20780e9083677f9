"""How a long run says where it is; how that is shown is the caller's affair."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called when a stage begins, and from time to time while it lasts.

    ``stage`` names it ("kernel", "slab", "checks", …). ``done`` of ``total`` bytes have been looked at; where
    ``total`` is 0, how long the stage will take is not known. Calls are few: tens, and one per 16 MiB searched.
    """

    def __call__(self, stage: str, done: int = 0, total: int = 0, /) -> None: ...


def unheard(stage: str, done: int = 0, total: int = 0, /) -> None:
    """A :class:`Progress` for runs that nobody watches."""
