"""Stop a guest while a CPU is inside of a function of its kernel, over QEMU's gdb stub."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from qemu import GuestError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from qemu import Guest


PROGRAM_COUNTER = 16 * 8  # where it lies in the registers of an x86-64 as gdb has them
STOPS = (b"T", b"S")


class Stub:
    """A connection to the gdb stub of a running guest. While it is open, the guest runs only inside of its methods."""

    def __init__(self, guest: Guest, folder: Path) -> None:
        self._guest = guest
        self._path = folder / "gdb.sock"
        self._path.unlink(missing_ok=True)
        self._buffer = b""

    def __enter__(self) -> Stub:
        self._server(f"unix:{self._path},server=on,wait=off")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(self._path))
        self._stopped()  # by the connection
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._server("none")
        self._path.unlink(missing_ok=True)
        self._guest.qmp("cont")

    def run_into(self, address: int, seconds: float) -> bool:
        """Let the guest run until a CPU is at an address. False if none is in so many seconds of the host."""
        self._ask(f"Z1,{address:x},1")
        self._send("c")
        self._socket.settimeout(seconds)
        try:
            self._stopped()
            there = True
        except TimeoutError:
            there = False
            self._socket.sendall(b"\x03")
            self._socket.settimeout(60)
            self._stopped()
        self._socket.settimeout(60)
        self._ask(f"z1,{address:x},1")
        at = int.from_bytes(bytes.fromhex(self._ask("g").decode())[PROGRAM_COUNTER : PROGRAM_COUNTER + 8], "little")
        if there and at != address:
            raise GuestError(f"a CPU has stopped at {at:#x}, not at {address:#x}")
        return there

    def step(self, count: int) -> None:
        """So many instructions of the CPU that has stopped; the others stand still."""
        for _ in range(count):
            self._send("s")
            self._stopped()

    def _server(self, where: str) -> None:
        self._guest.qmp("human-monitor-command", **{"command-line": f"gdbserver {where}"})

    def _ask(self, packet: str) -> bytes:
        self._send(packet)
        return self._answer()

    def _send(self, packet: str) -> None:
        data = packet.encode()
        self._socket.sendall(b"$%s#%02x" % (data, sum(data) & 0xFF))

    def _answer(self) -> bytes:
        """The next packet that does not tell of a stop."""
        while (packet := self._packet()).startswith(STOPS):
            pass
        return packet

    def _stopped(self) -> None:
        """Wait until the next stop is told of."""
        while not self._packet().startswith(STOPS):
            pass

    def _packet(self) -> bytes:
        """The next packet, acknowledged."""
        while True:
            start, end = self._buffer.find(b"$"), self._buffer.find(b"#")
            if 0 <= start < end <= len(self._buffer) - 3:
                packet, self._buffer = self._buffer[start + 1 : end], self._buffer[end + 3 :]
                self._socket.sendall(b"+")
                return packet
            data = self._socket.recv(65536)
            if not data:
                raise GuestError("QEMU closed its gdb stub")
            self._buffer += data
