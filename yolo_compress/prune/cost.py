# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a model costs at given widths, exactly, without building it."""

from __future__ import annotations

import numpy as np

from yolo_compress.prune.graph import ChannelGraph, IntArray


class CostModel:
    """Parameters and operations as a function of how many channels each group keeps.

    A convolution with i input channels, o outputs, kernel area a and p output positions has a i o parameters and does
    2 a i o p operations (o and 2 a o p where it is depthwise); a BatchNorm has two parameters per channel; the matrix
    products of an attention grow with the channels of its heads. Both counts equal those of `host.checkpoint.count` on
    the finished model.
    """

    def __init__(self, graph: ChannelGraph) -> None:
        self.sizes = np.array([len(group) for group in graph.groups], dtype=np.int64)
        self.fixed_params, self.fixed_ops = graph.fixed_params, graph.fixed_ops
        group_of = np.zeros(graph.channels, dtype=np.int64)
        for index, group in enumerate(graph.groups):
            group_of[group] = index
        # Of each group: the unit that narrows it and the size of that unit's first group. A unit of one channel, which
        # is put behind the others, stands for groups that nothing narrows.
        self.unit_of = np.full_like(self.sizes, len(graph.units))
        self.first_sizes = np.ones_like(self.sizes)
        for index, unit in enumerate(graph.units):
            self.unit_of[list(unit)] = index
            self.first_sizes[list(unit)] = self.sizes[unit[0]]
        convs = graph.convolutions
        # Times that each kept channel of a group shows up; within a group it is the same for every channel.
        self.inputs = np.stack([self._times(group_of[conv.inputs]) for conv in convs])
        self.outputs = np.stack([self._times(group_of[conv.outputs]) for conv in convs])
        self.norms = np.zeros_like(self.sizes)
        for norm in graph.norms:
            if norm.affine:
                self.norms += self._times(group_of[norm.channels])
        self.products = np.zeros_like(self.sizes)
        for channels, ops in graph.products:
            self.products += ops * self._times(group_of[channels])
        self.depthwise = np.array([conv.depthwise for conv in convs])
        self.divisor = np.array([conv.groups for conv in convs], dtype=np.int64)
        self.area = np.array([conv.area for conv in convs], dtype=np.int64)
        self.bias = np.array([conv.bias for conv in convs], dtype=np.int64)
        self.positions = np.array([conv.positions for conv in convs], dtype=np.int64)

    def widths(self, chosen: IntArray) -> IntArray:
        """Return the width of every group where each unit's first group has the chosen one and all others are whole.

        The other groups of a unit keep the same share.
        """
        return np.append(chosen, 1)[self.unit_of] * self.sizes // self.first_sizes

    def ends(self, widths: IntArray) -> tuple[IntArray, IntArray]:
        """Return the input and output channels of every convolution."""
        return self.inputs @ widths, self.outputs @ widths

    def at(self, widths: IntArray) -> tuple[int, int]:
        """Return (parameters, operations) at the widths of all groups."""
        inputs, outputs = self.ends(widths)
        weights = self.area * np.where(self.depthwise, 1, inputs // self.divisor) * outputs
        params = int((weights + self.bias * outputs).sum() + 2 * (self.norms @ widths)) + self.fixed_params
        return params, int((2 * weights * self.positions).sum() + self.products @ widths) + self.fixed_ops

    def __call__(self, chosen: IntArray) -> tuple[int, int]:
        """Return (parameters, operations) at the chosen widths of the graph's units."""
        return self.at(self.widths(chosen))

    def whole(self) -> tuple[int, int]:
        """Return (parameters, operations) of the model as it is."""
        return self.at(self.sizes)

    def _times(self, groups: IntArray) -> IntArray:
        return np.bincount(groups, minlength=len(self.sizes)) // self.sizes
