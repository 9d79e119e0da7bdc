# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether a GPU can be used, asked in a process of its own: what asks a broken driver may not live to tell."""

from __future__ import annotations

import subprocess
import sys

TIMEOUT_S = 60.0
# The driver alone, through ctypes: no package of NVIDIA has to be there, and none is loaded.
QUESTION = """
import ctypes, sys
index = int(input())
name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
try:
    driver = ctypes.CDLL(name)
except OSError as error:
    sys.exit(f"no NVIDIA driver is installed ({error})")
def ask(what, *arguments):
    code = getattr(driver, what)(*arguments)
    if code:
        text = ctypes.c_char_p()
        driver.cuGetErrorName(code, ctypes.byref(text))
        sys.exit(f"{what} failed with {(text.value or b'error').decode()} ({code})")
ask("cuInit", 0)
count = ctypes.c_int()
ask("cuDeviceGetCount", ctypes.byref(count))
if index >= count.value:
    sys.exit(f"GPU {index} was asked for and the driver sees {count.value}")
device, context = ctypes.c_int(), ctypes.c_void_p()
ask("cuDeviceGet", ctypes.byref(device), index)
ask("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
"""


def gpu_unusable(index: int = 0, *, question: str = QUESTION, timeout_s: float = TIMEOUT_S) -> str | None:
    """Return why a GPU cannot be used, or None when its primary context could be made.

    Args:
        index: Number of the GPU, as CUDA counts.
        question: Python that ends with a message, or silently when all is well.
        timeout_s: How long it may take.
    """
    try:
        child = subprocess.run(
            [sys.executable, "-I", "-c", question],
            input=str(index),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the NVIDIA driver did not answer within {timeout_s:g} s"
    if child.returncode < 0:
        return f"the NVIDIA driver ended the process that asked it (signal {-child.returncode})"
    if child.returncode:
        return (child.stderr.strip().splitlines() or [f"the probe failed with code {child.returncode}"])[-1]
    return None
