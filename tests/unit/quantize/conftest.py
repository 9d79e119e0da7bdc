# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Float graphs of three families, and images, that tests of quantization share."""

from __future__ import annotations

import pytest

from tests.tiny import export_families, write_data
from yolo_compress.host.data import read_data


@pytest.fixture(scope="session")
def graphs(tmp_path_factory):
    """Return a folder with float ONNX files of three families and a few images."""
    folder = tmp_path_factory.mktemp("quantize")
    export_families(folder)
    write_data(folder / "data")
    return folder


@pytest.fixture(scope="session")
def awake(tmp_path_factory):
    """Return a folder with checkpoints and float ONNX files of models that see something."""
    from yolo_compress.host.detect import class_outputs

    def lift(model):
        """Lift the scores of a fresh model: where nothing is seen, nothing can change."""
        for output in class_outputs(model).values():
            output.bias.data.zero_()
            output.weight.data.mul_(20)

    made = tmp_path_factory.mktemp("awake")
    export_families(made, change=lift)
    return made


@pytest.fixture
def images(graphs):
    return read_data(graphs / "data/data.yaml").train
