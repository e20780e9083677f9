"""Workers that are forked, use memory, run a program and end; and threads beside them."""

from __future__ import annotations

import os
import subprocess
import threading
import time


def use(rounds: int) -> None:
    for number in range(rounds):
        area = bytearray(1 << 20)  # of its own: malloc maps what is that large
        area[: 4096 * 200] = os.urandom(4096) * 200
        del area
        bytearray(200_000 + number)


def keep_threads() -> None:
    while True:
        threads = [threading.Thread(target=use, args=(20,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(0.05)


threading.Thread(target=keep_threads, daemon=True).start()
while True:
    pids = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            use(10)
            os._exit(0)
        pids.append(pid)
    subprocess.run(["/usr/bin/true"])
    for pid in pids:
        os.waitpid(pid, 0)
