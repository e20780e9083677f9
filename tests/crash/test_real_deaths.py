"""Guests that died, or complained, of what the recipe did to them: its label is what the page has to say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest
from support import ROOT

from vmaforensics.cli.main import main
from vmaforensics.crash.document import CrashDocument
from vmaforensics.errors import ExitCode
from vmaforensics.proc.log_document import text_lines

from .labels import case_of, cases, score

if TYPE_CHECKING:
    from pathlib import Path

# By the recipe's way (samples/recipe/README.md): kinds that the kernel may call it.
KINDS = {
    "nmi": {"nmi"},
    "oom": {"out-of-memory"},
    "pte-flipped": {"bad-page-map"},
    "mapcount": {"bad-page-state"},
    "page-mapping": {"bad-page-state", "page-fault", "null-pointer", "general-protection-fault"},
    "map-count": {"kernel-bug"},
    "list": {"list-corruption"},
    "maple-slot": {"general-protection-fault", "page-fault"},
    "maple-pivot": {"kernel-bug"},
    "vma-mm": {"null-pointer"},
    "vma-file": {"page-fault", "general-protection-fault"},
    "free-pointer": {"general-protection-fault", "page-fault"},
    "hung": {"hung-task"},
    "deadlock": {"hung-task"},
    "softlockup": {"soft-lockup"},
}
COMPLAINTS = {"rss": "bad-rss-counter", "pte-cleared": "bad-rss-counter"}  # the guest runs on


class Guest(NamedTuple):
    """An image of the recipe, and what it says it did."""

    path: Path
    way: str
    console: list[str]


def guests() -> list[Guest]:
    """Those that have been made here."""
    found = []
    for manifest in sorted(ROOT.glob("build/images/*.json")):
        death = json.loads(manifest.read_bytes()).get("death")
        images = [path for end in ("elf", "kdump") if (path := manifest.with_suffix(f".{end}")).exists()]
        if death is not None and images:
            found.append(Guest(images[0], death["way"], death["console"]))
    return found


def page(path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> CrashDocument:
    """The page of an image."""
    assert main(["crash", str(path), "--format", "json"]) == ExitCode.OK
    return msgspec.json.decode(capfdbinary.readouterr().out, type=CrashDocument)


GUESTS = [pytest.param(guest, id=guest.path.stem) for guest in guests()]
pytestmark = [pytest.mark.image, pytest.mark.skipif(not GUESTS, reason="the recipe's dead guests have not been made")]


@pytest.mark.parametrize("guest", GUESTS)
def test_the_page_says_what_was_done(guest: Guest, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    document = page(guest.path, capfdbinary)
    if guest.way in COMPLAINTS:
        assert document.death is None
        assert COMPLAINTS[guest.way] in {complaint.kind for complaint in document.complaints}
        return
    death = document.death
    assert death is not None and death.text is not None
    assert death.kind in KINDS[guest.way]
    assert death.fingerprint is not None
    panics = [line for line in guest.console if "Kernel panic - not syncing: " in line]  # long consoles are cut
    assert not panics or death.text in panics[0]


@pytest.mark.parametrize("guest", GUESTS)
def test_every_line_of_the_console_is_in_the_log(guest: Guest, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["log", str(guest.path)]) == ExitCode.OK
    stamp = len("[    0.000000] ")  # of which the console has one for each line of a record
    lines = {line[stamp:] for line in capfd.readouterr().out.splitlines()}
    if guest.path.stem.endswith("-kexec"):
        pytest.skip("the console is the crash kernel's from then on")
    # The console gets names of tasks as they are.
    console = [text_lines(line.rstrip("\r")[stamp:].encode())[0] for line in guest.console if line.startswith("[ ")]
    assert console
    assert [line for line in console if line not in lines] == []


@pytest.mark.parametrize("guest", GUESTS)
def test_the_stack_of_who_died_is_the_trace_of_the_log(guest: Guest, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """From panic() outwards: what is further in has come since."""
    death = page(guest.path, capfdbinary).death
    if death is None:
        return
    document = page(guest.path, capfdbinary)
    (stack,) = (stack for stack in document.stacks if stack.why == "died")
    assert stack.whole
    trace = next((trace for trace in death.backtraces if trace.of == "panic"), None)
    if trace is None:
        return
    said = [frame.name for frame in trace.frames if frame.reliable]
    unwound = [frame.name for frame in stack.frames if frame.reliable]
    ends = {"panic", "vpanic"}
    said = said[max(place for place, name in enumerate(said) if name in ends) + 1 :]
    unwound = unwound[max(place for place, name in enumerate(unwound) if name in ends) + 1 :]
    assert unwound == said


# What is left of the word when the image was made, where that is not its own address.
REMAINS = {
    "pte-cleared": "page tables of a process that has ended are given back: user address and frame are named",
}


LOCKS = {"hung", "deadlock", "softlockup"}  # made to look held: nothing is broken, and who waits for them is told


def test_the_word_that_was_changed_is_named_on_the_first_screen() -> None:
    """Of every guest whose kernel tripped: the score is in docs/crash.md."""
    for path, words in cases(ROOT / "build/images"):
        way = json.loads(path.with_suffix(".json").read_bytes())["death"]["way"]
        if way in LOCKS:
            continue
        document, screen = case_of(path)
        for word in words:
            found = score(word, document, screen)
            assert found.on_screen, (path.name, word)
            assert found.named or (found.about and way in REMAINS), (path.name, word)
