"""Is the word that was changed in a guest the one that ``crash`` names? For tests, and as a program for the score.

python tests/crash/labels.py build/images
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vmaforensics.crash.build import build_crash_document
from vmaforensics.crash.gather import follow_complaints, gather_case
from vmaforensics.crash.text import render_crash
from vmaforensics.image.open import open_image
from vmaforensics.kernel.find import find_kernel
from vmaforensics.progress import unheard

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vmaforensics.crash.document import CrashDocument

FIRST_SCREEN = 40  # lines
_LOCK = 64  # bytes of the largest rw_semaphore, that of PREEMPT_RT


class Edited(NamedTuple):
    """A word that was changed, as the manifest labels it."""

    what: str
    address: int | None
    physical: int
    user_address: int | None


class Score(NamedTuple):
    """How well a word is named."""

    named: bool  # its address or its physical address is that of a word of the page
    about: bool  # its place in user memory is
    among: int  # words that are named beside it, itself included
    on_screen: bool  # that address stands on the first screen of the text


def edited(manifest: dict[str, object]) -> list[Edited]:
    """The words that the recipe changed."""
    death = manifest.get("death")
    edits = death.get("edits", []) if isinstance(death, dict) else []
    return [
        Edited(
            edit["what"],
            _number(edit.get("address")),
            _number(edit["physical"]) or 0,
            _number(edit.get("user_address")),
        )
        for edit in edits
    ]


def _number(value: object) -> int | None:
    return int(value, 16) if isinstance(value, str) else value if isinstance(value, int) else None


def score(word: Edited, document: CrashDocument, screen: str) -> Score:
    """How the page of a case names a word that was changed."""
    words = [word for complaint in document.complaints for word in complaint.words]
    places = {hex(place) for place in (word.address,) if place is not None}
    for lock in document.waits.locks if document.waits is not None else ():
        # A lock is named by its first word; its owner is told by name.
        if lock.count and word.address is not None and 0 <= word.address - int(lock.address, 16) < _LOCK:
            return Score(named=True, about=False, among=1, on_screen=lock.address in screen)
    hits = [item for item in words if item.address in places or item.physical == hex(word.physical)]
    about = word.user_address is not None and any(item.user_address == hex(word.user_address) for item in words)
    shown = [*places, hex(word.physical)] if hits else [hex(word.user_address)] if about and word.user_address else []
    among = sum(item.sure == "possible" for item in words) if hits and hits[0].sure == "possible" else 1
    return Score(bool(hits), about, among, any(text in screen for text in shown))


def case_of(path: Path) -> tuple[CrashDocument, str]:
    """The page of an image, and its first screen."""
    image = open_image([path])
    case = follow_complaints(gather_case(image, find_kernel(image), unheard), unheard)
    document = build_crash_document(case, lines=25)
    return document, "\n".join(render_crash(document).splitlines()[:FIRST_SCREEN])


def cases(folder: Path) -> Iterator[tuple[Path, list[Edited]]]:
    """The images in a folder whose kernels tripped over words that were changed: whatever the kernel complained."""
    for manifest in sorted(folder.glob("*.json")):
        words = edited(json.loads(manifest.read_bytes()))
        images = [path for end in ("elf", "kdump") if (path := manifest.with_suffix(f".{end}")).exists()]
        if words and images:
            yield images[0], words


def say(text: str) -> None:
    """A line."""
    sys.stdout.write(f"{text}\n")


def main(folders: Sequence[str]) -> None:
    """Print a line for each word that was changed."""
    scores = []
    for folder in folders:
        for path, words in cases(Path(folder)):
            document, screen = case_of(path)
            for word in words:
                found = score(word, document, screen)
                scores.append(found)
                told = "named" if found.named else "its user address is named" if found.about else "NOT NAMED"
                told += f" as one of {found.among}" if found.among > 1 else ""
                say(f"{path.stem:28} {word.what:52} {told}{'' if found.on_screen else ', not on the first screen'}")
    sole = sum(found.named and found.among == 1 for found in scores)
    say(
        f"{sum(found.named for found in scores)} of {len(scores)} words named ({sole} alone), "
        f"{sum(found.on_screen for found in scores)} on the first screen"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
