"""The bundled guests that died: the page names the word that the label says was changed, the log is the guest's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest
from support import CRASHED, Sample

from vmaforensics.crash.build import build_crash_document
from vmaforensics.crash.gather import follow_complaints, gather_case
from vmaforensics.crash.text import render_crash
from vmaforensics.image.open import open_image
from vmaforensics.kernel.find import find_kernel
from vmaforensics.progress import unheard

from .labels import FIRST_SCREEN, edited, score

if TYPE_CHECKING:
    from vmaforensics.crash.document import CrashDocument
    from vmaforensics.views.log.records import Log

pytestmark = [pytest.mark.image, pytest.mark.skipif(not CRASHED, reason="no bundled guest that died")]

# By the way of the recipe: the kind of death, and how the panic begins.
DEATHS = {
    "hung": ("hung-task", "hung_task: blocked tasks"),
    "vma-file": ("general-protection-fault", "Fatal exception"),
    "pte-flipped": ("bad-page-map", "panic_on_taint set"),
}


class Found(NamedTuple):
    """A sample, and what ``crash`` says of it."""

    sample: Sample
    document: CrashDocument
    screen: str
    log: Log


@pytest.fixture(scope="module", params=CRASHED, ids=lambda sample: sample.name)
def found(request: pytest.FixtureRequest) -> Found:
    sample: Sample = request.param
    image = open_image(sample.image_path)
    case = follow_complaints(gather_case(image, find_kernel(image), unheard), unheard)
    document = build_crash_document(case, lines=25)
    assert case.log is not None
    return Found(sample, document, "\n".join(render_crash(document).splitlines()[:FIRST_SCREEN]), case.log)


def test_the_page_says_what_was_done(found: Found) -> None:
    death = found.document.death
    assert death is not None
    kind, text = DEATHS[found.sample.manifest["death"]["way"]]
    assert death.kind == kind
    assert death.text is not None
    assert death.text.startswith(text)
    assert found.screen.startswith("VERDICT     This kernel crashed: ")
    assert found.document.not_assessed == []


def test_the_word_that_was_changed_is_named_on_the_first_screen(found: Found) -> None:
    words = edited(found.sample.manifest)
    assert words
    for word in words:
        told = score(word, found.document, found.screen)
        assert (told.named, told.among, told.on_screen) == (True, 1, True), word


def test_the_log_begins_with_what_the_guest_read_as_its_dmesg(found: Found) -> None:
    """``syslog(SYSLOG_ACTION_READ_ALL)``: priority and time before each line of a record (record_print_text)."""
    records, lines = found.log.records, []
    for row in range(len(records)):
        micros = int(records.time[row]) // 1000
        priority = int(records.facility[row]) << 3 | int(records.level[row])
        head = b"<%d>[%5d.%06d] " % (priority, micros // 1_000_000, micros % 1_000_000)
        lines += [head + line + b"\n" for line in found.log.text(row).split(b"\n")]
    said = found.sample.truth["dmesg"]
    assert said.count(b"\n") > 200
    assert b"".join(lines)[: len(said)] == said


def test_the_last_lines_of_the_console_are_in_the_log(found: Found) -> None:
    panic = next(line for line in found.sample.manifest["death"]["console"] if "Kernel panic - not syncing: " in line)
    texts = b"\n".join(found.log.text(row) for row in range(len(found.log.records)))
    assert panic.partition("] ")[2].encode() in texts
