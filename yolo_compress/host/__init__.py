# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The only door to Ultralytics: everything below its public API passes through this package."""

import importlib

# Before torch: Ultralytics gives it one thread where the user set no OMP_NUM_THREADS, and a command that is handed on
# to `yolo` has to compute exactly what `yolo` computes. Where all cores are wanted, `host.cpu.use_all_cores` says so.
# Not by an import statement, whose name would stand in front of the module `host.ultralytics`.
importlib.import_module("ultralytics")
