# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The rails as the service of jetson-stats hands them out, for a container that sees its socket and not the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yolo_compress.bench.power.sensor import connected, meaning_of_total, rails_of_total
from yolo_compress.errors import MissingDependency, require

INTERVAL_S = 0.5  # asked for; the first client that a service has decides
ADVICE = "it is optional, and goes with its service: pip install jetson-stats in the version of the service"


class JetsonStats:
    """Total power from the client of jetson-stats, which is connected while this is open."""

    name = "jetson-stats"
    counts = False

    def __init__(self, *, device: str = "cpu", root: Path = Path("/")) -> None:
        self._client: Any = None
        self._rails: tuple[str, ...] = ()
        self.period_s: float | None = INTERVAL_S

    @staticmethod
    def covers(device: str) -> bool:
        """Return True: the rails feed processor and GPU."""
        return True

    @property
    def measures(self) -> str:
        """The rails that are counted."""
        return meaning_of_total(self._rails) if self._rails else "the rails that it hands out"

    def unavailable(self) -> str | None:
        """Return why there is no power; connects and waits for one reading."""
        try:
            self.open()
            self.read()
        except (MissingDependency, OSError, ValueError) as error:
            return " ".join(str(error).split())
        finally:
            self.close()
        return None

    def settings(self) -> dict[str, Any]:
        """Return how often the service reads."""
        return {"interval_s": self.period_s}

    def open(self) -> None:
        """Connect to the service; MissingDependency when jetson-stats is not installed."""
        jtop = require("jtop", extra="", purpose="Readings of its service", advice=ADVICE)
        client = jtop.jtop(interval=INTERVAL_S)
        try:
            client.start()
        except (jtop.JtopException, OSError, EOFError) as error:
            raise OSError(str(error)) from error
        self._client, self.period_s = client, float(client.interval)

    def read(self) -> float:
        """Wait for the next reading of the service and return its watts."""
        try:
            alive = self._client.ok()
        except Exception as error:  # it raises again whatever ended its thread
            raise OSError(f"the service of jetson-stats does not answer: {error}") from error
        if not alive:
            raise OSError("the service of jetson-stats has stopped answering")
        rails = rails_of(self._client.power)
        if not rails:
            raise ValueError("jetson-stats knows no power monitor of this board")
        self._rails = self._rails or rails_of_total(rails)
        if missing := [name for name in self._rails if name not in rails]:
            raise ValueError(f"jetson-stats did not hand out {', '.join(missing)}")
        return sum(rails[name] for name in self._rails)

    def signs(self) -> tuple[str, ...]:
        """Return nothing: the files of the kernel tell, which are watched anyway."""
        return ()

    def close(self) -> None:
        """Let go of the service."""
        client, self._client = self._client, None
        if client is not None:
            client.close()


def rails_of(power: dict[str, Any]) -> dict[str, float]:
    """Return watts of each rail in what the client calls `power`, whose total has a name where it is a rail itself.

    Supplies that the board merely has, such as a USB port, are no rails of the module.

    Raises:
        ValueError: It is not what jetson-stats from version 4 on hands out.
    """
    try:
        found = {str(n): values for n, values in power["rail"].items() if values.get("type") != "SYSTEM"}
        if "name" in power["tot"]:
            found[str(power["tot"]["name"])] = power["tot"]
        return {name: int(values["power"]) / 1e3 for name, values in found.items() if connected(name)}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"jetson-stats hands out power in a form that is not known ({error!r})") from error
