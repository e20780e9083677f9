"""Headless Chromium for tests, spoken to over its own protocol through a pipe: nothing to install beside it.

Protocol: https://chromedevtools.github.io/devtools-protocol; with --remote-debugging-pipe Chromium reads
JSON messages from descriptor 3 and writes them to 4, each ended by a zero byte.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-default-browser-check",
    "--remote-debugging-pipe",
    "--force-color-profile=srgb",
)
_PATIENCE = 60  # seconds


def executable() -> str | None:
    """Where a Chromium is on the PATH; None if there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """A running Chromium."""

    def __init__(self, profile: Path) -> None:
        program = executable()
        assert program is not None
        (theirs_in, self._out), (self._in, theirs_out) = os.pipe(), os.pipe()

        def place() -> None:
            inwards, outwards = (fcntl.fcntl(one, fcntl.F_DUPFD, 10) for one in (theirs_in, theirs_out))
            os.dup2(inwards, 3)
            os.dup2(outwards, 4)

        self._process = subprocess.Popen(
            [program, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=place,
            pass_fds=(3, 4),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer = b""
        self._next = 0
        self.events: list[dict[str, Any]] = []

    def command(self, method: str, session: str | None = None, **params: object) -> dict[str, Any]:
        """Send a command, wait for its answer; events that come meanwhile are kept."""
        self._next += 1
        message = {"id": self._next, "method": method, "params": params}
        raw = json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0"
        while raw:
            raw = raw[os.write(self._out, raw) :]
        wanted = self._next
        answer = self.wait(lambda one: one.get("id") == wanted)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def wait(self, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next message that fits; all others are kept as events."""
        until = time.monotonic() + _PATIENCE
        while True:
            while b"\0" not in self._buffer:
                poll = select.poll()  # select() takes no descriptor above 1023
                poll.register(self._in, select.POLLIN)
                assert poll.poll(max(until - time.monotonic(), 0) * 1000), f"Chromium said nothing for {_PATIENCE} s"
                chunk = os.read(self._in, 1 << 20)
                assert chunk, "Chromium has ended"
                self._buffer += chunk
            raw, _, self._buffer = self._buffer.partition(b"\0")
            message: dict[str, Any] = json.loads(raw)
            if fits(message):
                return message
            self.events.append(message)

    def close(self) -> None:
        """End it."""
        os.close(self._out)
        os.close(self._in)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @contextmanager
    def page(
        self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False, script: bool = True
    ) -> Iterator[Page]:
        """A tab of its own that has loaded ``url``."""
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.command(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        page.command("Emulation.setDeviceMetricsOverride", **size)
        page.command("Emulation.setScriptExecutionDisabled", value=not script)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.command("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        page.command("Page.navigate", url=url)
        if not page.said("Page.loadEventFired"):
            self.events.append(
                self.wait(lambda one: one.get("method") == "Page.loadEventFired" and one.get("sessionId") == session)
            )
        yield page
        self.command("Target.closeTarget", targetId=target)


class Page:
    """A tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def command(self, method: str, **params: object) -> dict[str, Any]:
        """A command to this tab."""
        return self._browser.command(method, self._session, **params)

    def said(self, method: str) -> list[dict[str, Any]]:
        """Parameters of the events of one kind since the page was opened."""
        mine = [event for event in self._browser.events if event.get("sessionId") == self._session]
        return [one["params"] for one in mine if one.get("method") == method]

    def complaints(self) -> list[str]:
        """Everything on the console: messages, exceptions, violations of the policy."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        self.evaluate("0")  # events up to here have come
        return [json.dumps(message) for kind in kinds for message in self.said(kind)]

    def requests(self) -> list[str]:
        """Every address asked for."""
        self.evaluate("0")
        return [message["request"]["url"] for message in self.said("Network.requestWillBeSent")]

    def evaluate(self, expression: str) -> Any:  # noqa: ANN401 - whatever it evaluates to
        """The value of a JavaScript expression, evaluated from outside the page's own scripts."""
        answer = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, *, whole: bool = False, **clip: float) -> bytes:
        """PNG of what is seen, of the whole page, or of a part: x, y, width, height."""
        part = {"clip": clip | {"scale": 1}} if clip else {}
        answer = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=whole or bool(clip), **part)
        return base64.b64decode(answer["data"])

    def pdf(self) -> bytes:
        """The page as printed."""
        return base64.b64decode(self.command("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"])
