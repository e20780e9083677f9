"""Run a guest under QEMU's own CPU emulation and talk to it over QMP."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

QEMU = "qemu-system-x86_64"


class GuestError(Exception):
    """The guest did not do what it should."""


@dataclass(frozen=True)
class Disk:
    """A virtio disk; the guest knows it by its serial number."""

    path: Path
    serial: str
    readonly: bool = False


def qmp_path(path: Path) -> str:
    """A path as QEMU's file: protocol takes it."""
    return f"file:{path.resolve()}"


class Guest:
    """A running virtual machine."""

    def __init__(
        self,
        work: Path,
        vmlinuz: Path,
        initrd: Path,
        cmdline: str,
        cpu: str,
        memory: int,
        disks: Sequence[Disk],
        *,
        smp: int = 2,
        vmcoreinfo: bool = True,
        memory_file: Path | None = None,
        devices: Sequence[str] = (),
    ) -> None:
        self.serial = work / "serial.log"
        self.serial.unlink(missing_ok=True)
        self._control = work / "qmp.sock"
        self._control.unlink(missing_ok=True)
        self._socket: socket.socket | None = None
        self._buffer = b""
        self.command = ["nice", "-n", "10", QEMU, "-nodefaults", "-no-user-config"]
        self.command += ["-machine", "q35", "-accel", "tcg,thread=multi"]
        self.command += ["-cpu", cpu, "-smp", str(smp), "-m", str(memory)]
        self.command += ["-display", "none", "-vga", "none", "-no-reboot"]
        self.command += ["-rtc", "base=2024-01-01T00:00:00,clock=vm"]
        self.command += ["-serial", f"file:{self.serial}"]
        self.command += ["-qmp", f"unix:{self._control},server=on,wait=off"]
        self.command += ["-kernel", str(vmlinuz), "-initrd", str(initrd)]
        self.command += ["-append", cmdline]
        if memory_file is not None:  # whose bytes others can read and write too
            backend = f"memory-backend-file,id=ram,size={memory}M,mem-path={memory_file},share=on"
            self.command += ["-object", backend, "-machine", "memory-backend=ram"]
        self._told = work / "told.sock"
        self._told.unlink(missing_ok=True)
        self.command += ["-chardev", f"socket,id=told,path={self._told},server=on,wait=off"]
        self.command += ["-serial", "chardev:told"]
        if vmcoreinfo:
            self.command += ["-device", "vmcoreinfo"]
        for number, disk in enumerate(disks):
            drive = f"file={disk.path},format=raw,if=none,id=d{number},cache=unsafe"
            if disk.readonly:
                drive += ",readonly=on"
            device = f"virtio-blk-pci,drive=d{number},serial={disk.serial}"
            self.command += ["-drive", drive, "-device", device]
        self.command += devices
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Guest:
        self._process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._control.unlink(missing_ok=True)
        self._told.unlink(missing_ok=True)

    def tell(self, line: str = "") -> None:
        """Send a line over the second serial port."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as told:
            told.connect(str(self._told))
            told.sendall(f"{line}\n".encode())
            time.sleep(1)

    def text(self) -> str:
        """What the serial console said so far."""
        if not self.serial.exists():
            return ""
        return self.serial.read_bytes().decode("utf-8", "replace")

    def wait_for(self, *markers: str, seconds: float) -> None:
        """Wait until the console shows one of some markers."""
        end = time.monotonic() + seconds
        wanted = " or ".join(map(repr, markers))
        while not any(marker in self.text() for marker in markers):
            self.check_alive(wanted)
            if time.monotonic() > end:
                raise GuestError(f"no {wanted} in {seconds:.0f} s: {self.serial}")
            time.sleep(0.2)

    def check_alive(self, wanted: str) -> None:
        """Raise :class:`GuestError` if the machine has ended before what is wanted."""
        if self._process is None or self._process.poll() is not None:
            raise GuestError(f"the guest ended before {wanted}: {self.serial}")

    def wait_exit(self, seconds: float) -> None:
        """Wait until the machine powers off or reboots."""
        if self._process is not None:
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired as error:
                raise GuestError(f"the guest did not end: {self.serial}") from error

    def qmp(self, command: str, **arguments: str | int | bool) -> object:
        """Run one QMP command and return its answer."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(600)
            self._socket.connect(str(self._control))
            self._message()
            self.qmp("qmp_capabilities")
        request = {"execute": command, "arguments": arguments}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = self._message()
            if "error" in answer:
                raise GuestError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def _message(self) -> dict[str, Any]:
        assert self._socket is not None
        while b"\n" not in self._buffer:
            data = self._socket.recv(65536)
            if not data:
                raise GuestError("QEMU closed its control socket")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message

    def dump_raw(self, path: Path, size: int) -> None:
        """Guest physical addresses 0..size as a plain file."""
        path.unlink(missing_ok=True)
        self.qmp("pmemsave", val=0, size=size, filename=str(path.resolve()))

    def dump_elf(self, path: Path) -> None:
        """An ELF core of the guest's memory, by physical address."""
        path.unlink(missing_ok=True)
        self.qmp("dump-guest-memory", paging=False, protocol=qmp_path(path), format="elf")

    def dump_kdump(self, path: Path) -> None:
        """A kdump file of the guest's memory, rearranged from flattened form."""
        flat = path.with_suffix(".flat")
        flat.unlink(missing_ok=True)
        self.qmp(
            "dump-guest-memory",
            paging=False,
            protocol=qmp_path(flat),
            format="kdump-zlib",
        )
        rearrange(flat, path)


def rearrange(flat: Path, path: Path) -> None:
    """Turn makedumpfile's flattened form into an ordinary dump; remove the former."""
    path.unlink(missing_ok=True)
    with flat.open("rb") as source:
        subprocess.run(
            ["makedumpfile", "-R", str(path)],
            stdin=source,
            stdout=subprocess.DEVNULL,
            check=True,
        )
    flat.unlink()
