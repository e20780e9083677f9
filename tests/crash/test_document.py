"""The page of a crash case: what it says of kernels made by hand, of real ones, and of hostile text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from handmade import BASE, Machine
from support import NO_SAMPLE, ROOT, SAMPLES
from views.handmade_log import RING, Ring

from vmaforensics.cli.main import main
from vmaforensics.crash.build import build_crash_document
from vmaforensics.crash.document import CrashDocument
from vmaforensics.crash.gather import gather_case
from vmaforensics.crash.taint import taint_letters, taint_words
from vmaforensics.crash.text import render_crash
from vmaforensics.errors import ExitCode
from vmaforensics.image.image import Image
from vmaforensics.progress import unheard
from vmaforensics.words.printable import printable

from .texts import NULL_POINTER

if TYPE_CHECKING:
    from collections.abc import Iterable

STRUCTS = RING | {
    "rq": "clock:u64 curr:*",
    "module": "state:u32 list:list_head name:u8[56] taints:u64 core_layout:module_layout init_layout:module_layout",
    "module_layout": "base:* size:u32",
}


def a_case(lines: Iterable[bytes | tuple[bytes, int]], *, panic_cpu: int = -1, comm: bytes = b"cat") -> Machine:
    """A kernel with one CPU, one module, and these lines in its log, each the kernel's or of a facility."""
    machine = Machine(STRUCTS, pages=256)
    log = Ring(machine=machine, count_bits=10, size_bits=16)
    for place, line in enumerate(lines):
        text, facility = line if isinstance(line, tuple) else (line, 0)
        log.write(text, facility=facility, time=place * 10**6, caller=7)
    task = machine.put("task_struct", {"pid": 812, "tgid": 812, "comm": comm})
    queue = machine.put("rq", {"curr": task})
    head = machine.room(16)
    module = machine.put("module", {"name": b"evil\x1b[31m", "taints": 1 << 12, "core_layout.size": 4096})
    link = machine.at("module", module, "list")
    for here, after in ((head, link), (link, head)):
        machine.word(here, after)
    machine.symbols |= {"runqueues": queue, "modules": head}
    for name, value in (("panic_cpu", panic_cpu), ("tainted_mask", 1 << 7 | 1 << 12)):
        machine.symbols[name] = machine.room(8)
        machine.word(machine.symbols[name], value)
    return machine


def document_of(machine: Machine) -> CrashDocument:
    kernel = machine.kernel()
    image = Image(path=Path("made/by/hand\x1b[2J"), size=0, format="raw", memory=kernel.memory)
    return build_crash_document(gather_case(image, kernel, unheard), lines=100)


def test_a_crash_names_task_cpu_trace_and_fingerprint() -> None:
    lines = [*NULL_POINTER.encode().split(b"\n"), b"Kernel panic - not syncing: Fatal exception"]
    document = document_of(a_case(lines, panic_cpu=0))
    death = document.death
    assert death is not None
    assert (death.kind, death.text, death.cpu, death.pid, death.comm) == (
        "null-pointer",
        "Fatal exception",
        0,
        812,
        "cat",
    )
    assert death.functions == ["mas_walk", "mt_find", "find_vma", "fuse_file_write"]
    assert death.fingerprint is not None
    assert death.registers[0].values["RBX"] == "0xffff8b4bc1a5d000"
    assert [module.taint for module in document.modules] == ["O"]
    assert document.taint.letters == "DO"
    assert document.verdict.startswith("This kernel crashed: BUG: kernel NULL pointer dereference, address: 00000")
    assert document.verdict in " ".join(render_crash(document).split())


def test_a_kernel_that_runs_says_so_and_what_it_runs() -> None:
    text = render_crash(document_of(a_case([b"Linux version 6.1"])))
    assert text.startswith("VERDICT     This kernel had not crashed when the image was made.\n")
    assert "CPU 0: pid 812 (cat)" in text
    assert "Linux version 6.1" in text


def test_lines_forged_by_a_program_are_shown_and_marked_and_nothing_more() -> None:
    forged = [(line, 1) for line in (b"Kernel panic - not syncing: forged", *NULL_POINTER.encode().split(b"\n"))]
    document = document_of(a_case(forged))
    assert (document.death, document.complaints) == (None, [])
    assert "(/dev/kmsg user) Kernel panic - not syncing: forged" in render_crash(document)


def test_nothing_in_the_page_acts_on_a_terminal() -> None:
    hostile = b"\x1b]0;x\x07\xe2\x80\xae\xff\r"
    lines = [
        b"BUG: Bad page map in process " + hostile,
        b"CPU: 0 PID: 1 Comm: " + hostile + b" Not tainted 6.1",
        b"Kernel panic - not syncing: " + hostile + b"\nRIP: 0010:x" + hostile,
        hostile,
    ]
    document = document_of(a_case(lines, panic_cpu=0, comm=hostile[:15]))
    for text in (render_crash(document), *_strings(msgspec.to_builtins(document))):
        assert all(printable(line) == line for line in text.split("\n"))
    assert msgspec.json.decode(msgspec.json.encode(document), type=CrashDocument) == document


def _strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _strings(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in _strings(item)]
    return [value] if isinstance(value, str) else []


def test_a_list_of_modules_that_breaks_off_or_turns_back_is_told() -> None:
    machine = a_case([])
    module = next(iter({machine.symbols["modules"]}))
    link = int.from_bytes(machine._data[module - BASE : module - BASE + 8], "little")
    machine.word(link, link)
    document = document_of(machine)
    assert [module.name for module in document.modules] == ["evil\\x1b[31m"]
    assert any("leads back into itself" in item.why for item in document.not_assessed)
    machine.word(link, 0x10)
    assert any("breaks off" in item.why for item in document_of(machine).not_assessed)


def test_a_kernel_without_any_of_it_lists_what_is_missing() -> None:
    document = document_of(Machine(STRUCTS))
    assert document.death is None
    assert document.verdict.startswith("Whether this kernel crashed is unknown")
    missing = {item.what for item in document.not_assessed}
    assert missing >= {
        "log",
        "modules",
        "taint",
        "tasks on CPUs",
        "how it ended",
        "uptime",
        "load",
        "machine",
        "command line",
    }


def test_taint_is_told_in_letters_and_words() -> None:
    assert taint_letters(0) == ""
    assert taint_letters(1 << 5 | 1 << 7 | 1 << 9 | 1 << 40) == "BDW[40]"
    assert taint_words(1 << 14) == ["L: a soft lock-up happened"]


@pytest.mark.image
@pytest.mark.skipif(not SAMPLES, reason=NO_SAMPLE)
def test_an_excerpt_says_that_it_crashed(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The guest wrote c into /proc/sysrq-trigger; the process that did was the one that captured the truth."""
    image = str(ROOT / "samples/debian-6.1-crash/image.kdump")
    assert main(["crash", image, "--format", "json"]) == ExitCode.OK
    document = msgspec.json.decode(capfdbinary.readouterr().out, type=CrashDocument)
    assert document.death is not None
    assert (document.death.kind, document.death.comm) == ("sysrq", "truth")
    assert document.death.fingerprint == "1:279c9c0cf83ca4e6"
    assert document.not_assessed == []
    assert main(["crash", image]) == ExitCode.OK
    assert capfdbinary.readouterr().out.startswith(b"VERDICT     This kernel crashed: sysrq triggered crash.\n")


@pytest.mark.image
@pytest.mark.parametrize("name", ["debian-5.10-crash", "debian-6.1-crash"])
def test_a_real_crash_is_the_one_that_its_log_tells(name: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The guest wrote c into /proc/sysrq-trigger; the process that did was the one that captured the truth."""
    path = ROOT / f"build/images/{name}.kdump"
    if not path.exists():
        pytest.skip("the recipe's images have not been made")
    assert main(["crash", str(path), "--format", "json"]) == ExitCode.OK
    document = msgspec.json.decode(capfdbinary.readouterr().out, type=CrashDocument)
    death = document.death
    assert death is not None
    assert (death.kind, death.text, death.comm) == ("sysrq", "sysrq triggered crash", "truth")
    assert death.fingerprint == "1:279c9c0cf83ca4e6"  # on either kernel
    assert document.not_assessed == []
