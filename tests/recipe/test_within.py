"""Stopping a guest inside of a function: what is said to QEMU's gdb stub, by the protocol that gdb documents."""

from __future__ import annotations

import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from support import ROOT

if TYPE_CHECKING:
    from pathlib import Path

sys.path.insert(0, str(ROOT / "samples" / "recipe"))
FUNCTION = 0xFFFF_FFFF_8112_3450


class Guest:
    """Answers as a stub does; one CPU comes to wherever it is told to stop, but for ``elsewhere``."""

    def __init__(self, pc: int) -> None:
        self.said: list[str] = []
        self.pc = pc

    def qmp(self, command: str, **arguments: Any) -> None:  # noqa: ANN401
        """Open the stub when it is told to."""
        line = arguments.get("command-line", "")
        if "unix:" not in line:
            self.said.append(line or command)
            return
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(line.split("unix:")[1].split(",")[0])
        listening.listen()
        threading.Thread(target=self._serve, args=(listening,), daemon=True).start()

    def _serve(self, listening: socket.socket) -> None:
        with listening, listening.accept()[0] as client:
            client.sendall(self._framed("T02thread:01;"))  # the connection stops the machine
            data = b""
            while more := client.recv(4096):
                data += more
                while (end := data.find(b"#")) >= 0 and len(data) >= end + 3:
                    packet = data[data.index(b"$") + 1 : end].decode()
                    data = data[end + 3 :]
                    self.said.append(packet)
                    client.sendall(b"+" + self._framed(self._reply(packet)))

    def _reply(self, packet: str) -> str:
        if packet == "g":  # rax to r15, rip, eflags
            return (bytes(16 * 8) + self.pc.to_bytes(8, "little") + bytes(4)).hex()
        return "T05thread:01;" if packet in ("c", "s") else "OK"

    @staticmethod
    def _framed(packet: str) -> bytes:
        return f"${packet}#{sum(packet.encode()) & 0xFF:02x}".encode()


def test_a_guest_stops_where_it_is_told_to_and_goes_on_after(tmp_path: Path) -> None:
    from within import Stub

    guest = Guest(FUNCTION)
    with Stub(guest, tmp_path) as stub:  # type: ignore[arg-type]
        assert stub.run_into(FUNCTION, 10)
        stub.step(2)
    assert guest.said == [f"Z1,{FUNCTION:x},1", "c", f"z1,{FUNCTION:x},1", "g", "s", "s", "gdbserver none", "cont"]


def test_a_stop_elsewhere_is_no_image_within_a_function(tmp_path: Path) -> None:
    from qemu import GuestError
    from within import Stub

    with Stub(Guest(FUNCTION + 1), tmp_path) as stub, pytest.raises(GuestError):  # type: ignore[arg-type]
        stub.run_into(FUNCTION, 10)
