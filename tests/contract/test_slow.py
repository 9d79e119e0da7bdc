# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The list of slow tests names tests that exist, once each, and never all cases of one."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.conftest import slow_tests

ROOT = Path(__file__).resolve().parents[2]


def test_each_name_is_a_test_that_has_a_quicker_sibling():
    listed = slow_tests()
    assert [name for name, count in Counter(listed).items() if count > 1] == []
    files = sorted({name.partition("::")[0] for name in listed})
    call = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    found = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    names = {line for line in found.stdout.splitlines() if "::" in line}
    assert set(listed) <= names, found.stdout[-2000:]
    left = {name.partition("[")[0] for name in names - set(listed)}
    alone = {name for name in listed if "[" in name and name.partition("[")[0] not in left}
    assert alone == set()
