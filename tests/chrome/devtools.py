"""A page in headless Chromium, looked at and used by the DevTools protocol, over a pipe."""

from __future__ import annotations

import json
import os
import subprocess
import time
from base64 import b64decode
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.patience import PATIENCE
from tests.process.harness import clean_environment, need, poll

CHROMIUM = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--log-level=3",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]


class Page:
    """A page. What it complains about is in :attr:`complaints`: errors, violations of its policy, failed requests.

    :param directory: for the profile; a short path.
    """

    def __init__(self, directory: Path, width: int = 1280, height: int = 900) -> None:
        self.complaints: list[str] = []
        self._number = 0
        commands, self._to = os.pipe()
        self._from, answers = os.pipe()
        # It reads 3 and writes 4.
        argv = [need("bash"), "-c", f'exec "$@" 3<&{commands} 4>&{answers}', "bash", need("chromium"), *CHROMIUM]
        self._process = subprocess.Popen(
            [*argv, f"--user-data-dir={directory}/profile", f"--window-size={width},{height}", "about:blank"],
            env=clean_environment({"TMPDIR": str(directory)}),
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._buffer = b""
        self._session = ""
        try:
            found = poll(self._pages, PATIENCE, "Chromium's page")
            self._session = self("Target.attachToTarget", targetId=found[0]["targetId"], flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self(f"{domain}.enable")
            self.resize(width, height)
        except BaseException:
            self.close()
            raise

    def _pages(self) -> list[dict[str, Any]]:
        return [each for each in self("Target.getTargets")["targetInfos"] if each["type"] == "page"]

    def __enter__(self) -> Page:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait(PATIENCE)
        os.close(self._from)
        os.close(self._to)

    def __call__(self, method: str, **parameters: object) -> dict[str, Any]:
        """Do what a method of the protocol does, and return its result."""
        self._number += 1
        command: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._to, json.dumps(command).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            message = self._receive()
            if message.get("id") == self._number:
                assert "error" not in message, (method, message)
                result: dict[str, Any] = message["result"]
                return result
            self._take(message)
        raise AssertionError(f"no answer to {method}")

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            piece = os.read(self._from, 1 << 20)
            assert piece, "Chromium has ended"
            self._buffer += piece
        data, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(data)
        return message

    def _take(self, message: dict[str, Any]) -> None:
        method, found = message.get("method"), message.get("params", {})
        if method == "Log.entryAdded":
            self.complaints.append(found["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(found["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(json.dumps(found["args"]))

    def resize(self, width: int, height: int, *, is_phone: bool = False) -> None:
        """Give the page this size, in CSS pixels."""
        scale = 2 if is_phone else 1
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=is_phone)

    def prefer(self, scheme: str) -> None:
        """Say that the user prefers ``light`` or ``dark``."""
        self("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, url: str) -> None:
        """Go there."""
        self("Page.navigate", url=url)

    def js(self, expression: str) -> Any:
        """The value of an expression of JavaScript, in the page."""
        found = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, (expression, found)
        return found["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression of JavaScript is true."""
        look = partial(self.js, f"Boolean({expression})")
        try:
            poll(look, PATIENCE, expression)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.complaints}\n{self.text}") from None

    @property
    def text(self) -> str:
        """What can be read."""
        text: str = self.js("document.body.innerText")
        return text

    def press(self, key: str, text: str = "") -> None:
        """Press a key and let it go."""
        keys = {"Tab": 9, "Enter": 13, " ": 32, "Escape": 27}
        known = {"windowsVirtualKeyCode": keys.get(key, 0), "key": key, "code": "Space" if key == " " else key}
        text = text or {"Enter": "\r", " ": " "}.get(key, "")
        self("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **known)
        self("Input.dispatchKeyEvent", type="keyUp", **known)

    def screenshot(self, path: Path, height: float) -> None:
        """Write a picture of the page from its top, of this height."""
        clip = {"x": 0, "y": 0, "width": self.js("innerWidth"), "height": height, "scale": 1}
        path.write_bytes(b64decode(self("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]))
