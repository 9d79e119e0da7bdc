# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The rails as NVIDIA's `tegrastats` prints them, for a Jetson whose power monitors cannot be read directly."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import threading
from pathlib import Path
from typing import IO, Any

from yolo_compress.bench.power.sensor import connected, meaning_of_total, rails_of_total

INTERVAL_MS = 100
PATIENCE_S = 3.0  # longest that a line may take
# "VDD_IN 4012mW/3990mW" now and mean, "VDD_IN 4012/3990" before JetPack 5, "VDD_GPU 4925mW/4925mW/4925mW" with the
# highest since JetPack 7.2, "VIN 28548mW" without a mean. "RAM 4832/7620MB" is none of them: its unit is another.
RAIL = re.compile(
    r"(?<!\S)([A-Z][A-Z0-9_]*) (-?[0-9]{1,9})(?:mW(?:/-?[0-9]{1,9}mW){0,2}|/-?[0-9]{1,9})(?!\S)", re.ASCII
)


def parse(line: str) -> dict[str, float]:
    """Return watts now of each rail that a line names; empty for any other line."""
    found: dict[str, float] = {}
    for name, milliwatt in RAIL.findall(line):
        if connected(name):
            found.setdefault(name, int(milliwatt) / 1e3)
    return found


class Tegrastats:
    """Total power from the lines of a `tegrastats` process, which runs while this is open."""

    name = "tegrastats"
    counts = False
    period_s: float | None = INTERVAL_MS / 1e3

    def __init__(self, *, device: str = "cpu", root: Path = Path("/"), command: str = "tegrastats") -> None:
        self._command = command
        self._rails: tuple[str, ...] = ()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._fresh = threading.Condition()
        self._latest = ""
        self._unread = False
        self._ended = False

    @staticmethod
    def covers(device: str) -> bool:
        """Return True: the rails feed processor and GPU."""
        return True

    @property
    def measures(self) -> str:
        """The rails that are counted."""
        return meaning_of_total(self._rails) if self._rails else "the rails that it prints"

    def unavailable(self) -> str | None:
        """Return why no power is printed; starts the command and reads one line of it."""
        if shutil.which(self._command) is None:
            return f"no command {self._command} on the PATH"
        try:
            self.open()
            self.read()
        except (OSError, ValueError) as error:
            return str(error)
        finally:
            self.close()
        return None

    def settings(self) -> dict[str, Any]:
        """Return how often it prints."""
        return {"interval_ms": INTERVAL_MS}

    def open(self) -> None:
        """Start the command."""
        self._latest, self._unread, self._ended = "", False, False
        self._process = subprocess.Popen(
            [self._command, "--interval", str(INTERVAL_MS)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._follow, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def read(self) -> float:
        """Wait for the next line and return its watts."""
        with self._fresh:
            self._fresh.wait_for(lambda: self._unread or self._ended, PATIENCE_S)
            line, unread, ended = self._latest, self._unread, self._ended
            self._unread = False
        if not unread:
            what = f"ended: {line.strip()[:200]}" if ended else f"printed nothing for {PATIENCE_S:g} s"
            raise OSError(f"{self._command} {what}")
        rails = parse(line)
        if not rails:
            raise ValueError(f"{self._command} prints no power: {line.strip()[:200]}")
        self._rails = self._rails or rails_of_total(rails)
        if missing := [name for name in self._rails if name not in rails]:
            raise ValueError(f"{self._command} did not print {', '.join(missing)}")
        return sum(rails[name] for name in self._rails)

    def signs(self) -> tuple[str, ...]:
        """Return nothing: the files of the kernel tell, which are watched anyway."""
        return ()

    def close(self) -> None:
        """Stop the command."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._reader is not None:
            self._reader.join(timeout=2)
        if process.stdout is not None:
            with contextlib.suppress(OSError):
                process.stdout.close()

    def _follow(self, stream: IO[str]) -> None:
        try:
            for line in stream:
                with self._fresh:
                    self._latest, self._unread = line, True
                    self._fresh.notify_all()
        except ValueError:
            pass  # the stream was closed under it
        with self._fresh:
            self._ended = True
            self._fresh.notify_all()
