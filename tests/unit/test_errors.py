# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Errors: their exit codes, and packages that are not there."""

from __future__ import annotations

import math

import pytest

from yolo_compress import errors
from yolo_compress.errors import MissingDependency, require

EXIT_CODES = {
    "CompressError": 1,
    "UsageError": 2,
    "RecipeError": 2,
    "ResumeMismatch": 2,
    "MissingDependency": 1,
    "UnsupportedModel": 1,
    "DataError": 1,
    "OutputError": 1,
    "EngineError": 1,
    "GateNotMet": 3,
}


def test_each_error_has_its_exit_code():
    found = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.CompressError)
    }
    assert found == EXIT_CODES


def test_a_package_that_is_there_is_returned():
    assert require("math", extra="openvino", purpose="Sums") is math


def test_a_package_that_is_not_there_says_what_to_type():
    with pytest.raises(MissingDependency) as caught:
        require("no_such_runtime.core", extra="openvino", purpose="OpenVINO engines")
    assert str(caught.value) == (
        "OpenVINO engines need the 'no_such_runtime' package, which is not installed: "
        "pip install 'yolo-compress[openvino]'"
    )


def test_a_package_whose_own_dependency_is_missing_keeps_its_message(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        require("half_installed", extra="onnx", purpose="ONNX engines")
