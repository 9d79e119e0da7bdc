# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A headless Chromium that opens one page and tells what happened, driven over a pair of pipes without any package."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

VARIABLE = "YOLO_COMPRESS_BROWSER"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "chrome-headless-shell")
# one process and drawing on the processor, so that it also runs in containers without a GPU or user namespaces
SWITCHES = ("--headless=shell", "--remote-debugging-pipe", "--no-sandbox", "--no-zygote", "--single-process")
SWITCHES += ("--in-process-gpu", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
SWITCHES += ("--ignore-gpu-blocklist", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking")
LONGEST_S = 30.0
TALLEST = 8000  # pixels of a screenshot: a taller one repeats its beginning


@dataclass
class Visit:
    """What a page did: requests by address, lines of the console and exceptions, and the answers to expressions."""

    requests: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    answers: list[object] = field(default_factory=list)
    screenshot: bytes = b""


def find_browser() -> str | None:
    """Return the browser that the environment variable names or that is on the PATH, or None."""
    given = os.environ.get(VARIABLE)
    return given or next((found for name in NAMES if (found := shutil.which(name))), None)


def visit(browser: str, page: Path, *, width: int, expressions: tuple[str, ...] = (), dark: bool = False) -> Visit:
    """Open a file at a width in pixels, evaluate expressions in it, and take a picture of the page."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        chromium = _Chromium(browser, profile)
        try:
            return _visit(chromium, page.resolve().as_uri(), width, expressions, dark)
        finally:
            chromium.close()


def _visit(chromium: _Chromium, address: str, width: int, expressions: tuple[str, ...], dark: bool) -> Visit:
    target = chromium.call("Target.createTarget", url="about:blank")["targetId"]
    chromium.session = chromium.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
        chromium.call(f"{domain}.enable")
    phone = width < 600
    size = {"width": width, "height": 844 if phone else 900, "deviceScaleFactor": 1, "mobile": phone}
    chromium.call("Emulation.setDeviceMetricsOverride", **size)
    theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    chromium.call("Emulation.setEmulatedMedia", features=theme)
    chromium.call("Page.navigate", url=address)
    chromium.until("Page.loadEventFired")
    seen = Visit()
    for expression in expressions:
        answer = chromium.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        seen.answers.append(answer["result"].get("value"))
    page = chromium.call("Page.getLayoutMetrics")["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": width, "height": min(page["height"], TALLEST), "scale": 1}
    picture = chromium.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
    seen.screenshot = base64.b64decode(picture["data"])
    for event in chromium.events:
        given = event.get("params", {})
        if event["method"] == "Network.requestWillBeSent":
            seen.requests.append(given["request"]["url"])
        if event["method"] in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            seen.console.append(json.dumps(given))
    return seen


class _Chromium:
    """A browser that takes commands on its file descriptor 3 and answers on 4, each a JSON text and a zero byte."""

    def __init__(self, browser: str, profile: str) -> None:
        their_in, self.out = os.pipe()
        self.inp, their_out = os.pipe()
        self.session, self.number, self.rest, self.events = None, 0, b"", []
        # descriptors 3 and 4 are what the browser reads; a shell puts ours there, whatever numbers they have
        command = f'exec "$0" "$@" 3<&{their_in} 4>&{their_out}'
        self.process = subprocess.Popen(
            ["bash", "-c", command, browser, *SWITCHES, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(their_in, their_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_in)
        os.close(their_out)

    def call(self, method: str, **params: object) -> dict:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self.number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def until(self, method: str) -> None:
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._read())

    def _read(self) -> dict:
        end = time.monotonic() + LONGEST_S
        while b"\0" not in self.rest:
            left = end - time.monotonic()
            assert left > 0, "the browser does not answer"
            if select.select([self.inp], [], [], left)[0]:
                block = os.read(self.inp, 1 << 20)
                assert block, "the browser has ended"
                self.rest += block
        line, _, self.rest = self.rest.partition(b"\0")
        return json.loads(line)

    def close(self) -> None:
        os.close(self.out)
        os.close(self.inp)
        self.process.kill()
        self.process.wait()
