"""The outcome of a crash case in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.crash.document import ComplaintPart, DeathPart
# Panics that something else led to, which the complaint before them says.
_SAYS_NOTHING: Final = ("Fatal exception", "panic_on_taint set")


def verdict(death: DeathPart | None, complaints: Sequence[ComplaintPart], *, could_tell: bool) -> str:
    """``could_tell``: the variable that says whether a kernel has panicked could be read."""
    if death is not None:
        text = "how is not in the image" if death.text is None else death.text
        if death.cause is not None and text.startswith(_SAYS_NOTHING):
            text = f"{death.cause} ({text.removesuffix(' ...')})"
        return f"This kernel crashed: {text}."
    said = f"; its log has {counted(len(complaints), 'complaint')}" if complaints else ""
    if not could_tell:
        return f"Whether this kernel crashed is unknown: what would say so is not in the image{said}."
    return f"This kernel had not crashed when the image was made{said}."
