# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Several streams at once: what a box with several cameras gets from one artifact, and how long each image waits.

Each stream has a session and a thread of its own and is fed without a pause. The cores are shared out between them, so
that streams do not take turns on the same ones. The rate is the sum over streams of images by the time that each took
for them, and a latency is what one inference takes while the others run.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_compress.bench.fresh import ask
from yolo_compress.errors import EngineError

if TYPE_CHECKING:
    import numpy as np

SECONDS = 5.0
WARMUP = 3


@dataclass(frozen=True)
class Streams:
    """`count` streams of `threads` threads each, over `seconds`; `images` of all together."""

    count: int
    threads: int
    seconds: float
    images: int
    images_per_s: float
    latency_ms_p50: float
    latency_ms_p95: float | None


def measure_streams(
    path: Path,
    *,
    imgsz: int,
    streams: int,
    device: str = "cpu",
    threads: int | None = None,
    seconds: float = SECONDS,
) -> Streams | str:
    """Run an artifact in several streams, in a process of its own.

    Args:
        path: What the runtime loads.
        imgsz: Side of the square input in pixels.
        streams: How many, at least one.
        device: Where it runs.
        threads: Of all streams together; every core that this process may use when not given.
        seconds: How long.

    Returns:
        What was measured, or "unavailable: " with the reason.
    """
    from yolo_compress.host.cpu import usable_cores  # torch, which the measuring process does without

    each = share(threads or usable_cores(), streams)
    # runtimes on OpenMP, torch among them, take the number of threads from the process, not from the session
    found = ask(
        "yolo_compress.bench.streams",
        *(path, imgsz, device, each, streams, seconds),
        environment={"OMP_NUM_THREADS": str(each)},
    )
    return found if isinstance(found, str) else Streams(**found)


def share(threads: int, streams: int) -> int:
    """Return how many threads each stream gets: an equal part, and one at least."""
    return max(1, threads // streams)


def run_together(load: Callable[[], Any], image: np.ndarray, *, streams: int, seconds: float, threads: int) -> Streams:
    """Feed one image to that many sessions at the same time, each in a thread of its own.

    Args:
        load: Makes a session; called in the thread that will use it, since some runtimes bind the two.
        image: (1, 3, H, W), float32.
        streams: How many.
        seconds: How long after the last one is ready; an inference that has begun is finished.
        threads: That each session was given, for the record.

    Raises:
        EngineError: A stream could not be loaded or run.
    """
    ready = threading.Barrier(streams)
    taken: list[list[float]] = [[] for _ in range(streams)]
    spans, failures = [0.0] * streams, []

    def stream(number: int) -> None:
        session = None
        try:
            session = load()
            for _ in range(WARMUP):
                session.infer(image)
            ready.wait()
            begin = now = time.perf_counter()
            while now - begin < seconds:
                before = now
                session.infer(image)
                now = time.perf_counter()
                taken[number].append(now - before)
            spans[number] = now - begin
        except threading.BrokenBarrierError:
            pass  # another stream failed, and says why
        except Exception as error:  # runtimes raise classes of their own
            failures.append(" ".join(str(error).split())[:300])
            ready.abort()
        finally:
            if session is not None:
                session.close()

    workers = [threading.Thread(target=stream, args=(number,), daemon=True) for number in range(streams)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise EngineError(f"one of {streams} streams failed: {failures[0]}; ask for fewer streams")
    return _summary(taken, spans, threads)


def _summary(taken: Sequence[Sequence[float]], spans: Sequence[float], threads: int) -> Streams:
    import numpy as np

    from yolo_compress.bench.latency import percentile_ms

    samples = np.concatenate([np.asarray(stream) for stream in taken])
    return Streams(
        count=len(taken),
        threads=threads,
        seconds=max(spans),
        images=len(samples),
        images_per_s=sum(len(stream) / span for stream, span in zip(taken, spans, strict=True)),
        latency_ms_p50=1e3 * float(np.median(samples)),
        latency_ms_p95=percentile_ms(samples, 95),
    )


def _main(path: str, imgsz: str, device: str, threads: str, streams: str, seconds: str) -> None:
    from yolo_compress.bench.paired import noise_image
    from yolo_compress.engines import engine_for

    engine = engine_for(Path(path))
    found = run_together(
        lambda: engine.load(Path(path), device=device, threads=int(threads)),
        noise_image(int(imgsz)),
        streams=int(streams),
        seconds=float(seconds),
        threads=int(threads),
    )
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
