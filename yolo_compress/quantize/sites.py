# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Where the quantizers of a Q/DQ graph stand, told by the modules of the model that the graph was exported from."""

from __future__ import annotations

from dataclasses import dataclass

from yolo_compress.quantize.placement import Placement, Wiring
from yolo_compress.quantize.scheme import PASSING


@dataclass(frozen=True)
class Site:
    """What is quantized around one convolution, by the number of the group; None where the graph has nothing.

    Attributes:
        source: What enters the convolution.
        output: What leaves it, before its activation.
        branch: What its output is added to a skip connection as.
        skip: The skip connection that its output is added to.
    """

    source: int | None = None
    output: int | None = None
    branch: int | None = None
    skip: int | None = None


def sites(wiring: Wiring, placement: Placement) -> dict[str, Site]:
    """Return the convolutions with something quantized around them by module name, groups numbered as in the placement.

    Convolutions in float are among them where they read what was quantized for others.
    """
    codes = _Codes(wiring, placement)
    residuals = _residuals(wiring, placement, codes)
    found = {}
    for layer in placement.layers:
        output = wiring.nodes[layer.node].output[0]
        behind = codes.group_of[output] if output in codes.read else None
        site = Site(codes.at(layer.node, 0), behind, *residuals.get(layer.name, (None, None)))
        if site != Site():
            found[layer.name] = site
    return found


class _Codes:
    """Which inputs of a graph's operations bring what codes stand for, and under which group's scale."""

    def __init__(self, wiring: Wiring, placement: Placement) -> None:
        self.wiring, self.placement = wiring, placement
        self.group_of = {name: index for index, group in enumerate(placement.groups) for name in group.tensors}
        self.read = {wiring.nodes[index].input[position] for index, position in placement.reads}

    def at(self, index: int, position: int) -> int | None:
        """Return the group of an input, which operations may have passed on; None where it is float."""
        name = self.wiring.nodes[index].input[position]
        if (index, position) in self.placement.reads:
            return self.group_of[name]
        maker = self.wiring.makers.get(name)
        if maker is None or self.wiring.nodes[maker].op_type not in PASSING:
            return None
        found = {self.at(maker, before) for before, _ in self.wiring.data_inputs(maker)}
        return found.pop() if len(found) == 1 else None


def _residuals(wiring: Wiring, placement: Placement, codes: _Codes) -> dict[str, tuple[int | None, int | None]]:
    """Return, by the convolution whose output is added, the groups of that output and of the skip, where they are."""
    names = {layer.node: layer.name for layer in placement.layers}
    found = {}
    for index, node in enumerate(wiring.nodes):
        if node.op_type != "Add":
            continue
        groups = {
            position: codes.at(index, position)
            for position, name in wiring.data_inputs(index)
            if wiring.nodes[wiring.makers.get(name, index)].op_type != "Conv"  # its own site has that
        }
        if all(group is None for group in groups.values()):
            continue
        # of two inputs, the branch is the one that is made later
        order = sorted(wiring.data_inputs(index), key=lambda entry: wiring.makers.get(entry[1], -1))
        (skip, _), (branch, made) = order
        found[names[_convolution_before(wiring, made)]] = (groups.get(branch), groups.get(skip))
    return found


def _convolution_before(wiring: Wiring, tensor: str) -> int:
    """Return the convolution that makes a tensor, through its activation."""
    index = wiring.makers[tensor]
    while wiring.nodes[index].op_type != "Conv":
        index = next(wiring.makers[name] for _, name in wiring.data_inputs(index) if name in wiring.makers)
    return index
