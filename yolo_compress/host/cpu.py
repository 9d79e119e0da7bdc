# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What makes training on a CPU faster, and whether this CPU has it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from yolo_compress.errors import UsageError


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_all_cores() -> None:
    """Let torch compute on every core that this process may use; importing Ultralytics first leaves it only one."""
    torch.set_num_threads(usable_cores())


@contextmanager
def keep_cores() -> Iterator[None]:
    """Let torch have as many threads after the context as before: Ultralytics sets them where it chooses a device."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def bf16_units() -> tuple[str, ...]:
    """Return the instruction sets of this CPU that multiply bfloat16 in hardware; empty where there is none."""
    found = torch.cpu.get_capabilities()
    wanted = ("amx_bf16", "avx512_bf16", "avx10_2", "bf16", "sve_bf16")
    return tuple(name for name in wanted if found.get(name))


def require_bf16() -> None:
    """Refuse bfloat16 where it would be emulated, which is slower than float32.

    Raises:
        UsageError: This CPU has no bfloat16 units.
    """
    if not bf16_units():
        name = torch.cpu.get_capabilities().get("cpu_name", "this CPU")
        raise UsageError(
            f"amp=bf16 needs a CPU with bfloat16 units (AVX512-BF16 or AMX) and {name} has none, so it would run "
            "slower than float32; leave amp out and keep fast_cpu=true"
        )
