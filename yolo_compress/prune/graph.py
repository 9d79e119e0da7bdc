# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The channel-dependency graph: which channels of which tensors can only go together.

It is found by symbolic execution. A feature map is an array with one *variable* per channel; the rules in `rules.py`
replay each block on such arrays. A convolution gives its outputs fresh variables, a residual addition unites two
variables, a concatenation joins arrays, a chunk slices them. What is one variable in the end is one channel in the
end, wherever it appears. Nothing is computed on images, so this takes milliseconds and cannot miss a coupling that
some input does not excite.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from yolo_compress.errors import UsageError
from yolo_compress.prune.rules import RULES
from yolo_compress.prune.trace import Convolution, IntArray, Norm, Tracer, WidthAttribute

IN_STEP = "as wide as the other half of its block: "


@dataclass(frozen=True)
class Bundle:
    """Channels that go by the row, such as an attention head: its values, and its queries and keys with them.

    Attributes:
        group: Group of the leading channels; `follower` is that of the following ones.
        lead: (rows, columns) channels.
        following: (rows, columns) channels.
    """

    group: int
    follower: int
    lead: IntArray
    following: IntArray


@dataclass(frozen=True)
class ChannelGraph:
    """All channels of a model and every place where each one lives.

    Channels are numbered 0 to `channels` - 1. A *group* is a set of channels that appear at the same places, such as
    the outputs of one convolution; a *unit* is one group, or several that must always be equally wide.

    Attributes:
        channels: How many independent channels there are.
        frozen: For each channel that has to stay, why.
        groups: Channel numbers per group.
        units: Group numbers per unit, only of groups that can be narrowed; followers of a bundle stand last.
        bundles: Channels that only go by the row.
        products: (channels, operations per channel) of what multiplies outside of convolutions.
        fixed_params: Parameters outside of `convolutions` and `norms`.
        fixed_ops: Operations that no width changes, two per multiply-accumulate.
        notes: What was kept whole and why, one sentence per kind.
    """

    channels: int
    imgsz: int
    convolutions: tuple[Convolution, ...]
    norms: tuple[Norm, ...]
    attributes: tuple[WidthAttribute, ...]
    frozen: dict[int, str]
    groups: tuple[IntArray, ...]
    units: tuple[tuple[int, ...], ...]
    bundles: tuple[Bundle, ...]
    products: tuple[tuple[IntArray, int], ...]
    fixed_params: int
    fixed_ops: int
    notes: tuple[str, ...]

    def together(self, unit: tuple[int, ...]) -> int:
        """Return how many channels of a unit's first group go at a time: 1, or those of a row."""
        return math.lcm(*(bundle.lead.shape[1] for bundle in self.bundles if bundle.group in unit))

    def slots(self) -> dict[int, list[tuple[str, int, int]]]:
        """Return (module, dimension, index) of every place, by channel; dimension 0 is output, 1 is input."""
        found: dict[int, list[tuple[str, int, int]]] = {channel: [] for channel in range(self.channels)}
        for conv in self.convolutions:
            ends = ((0, conv.outputs),) if conv.depthwise else ((0, conv.outputs), (1, conv.inputs))
            for dimension, channels in ends:
                for index, channel in enumerate(channels):
                    found[int(channel)].append((conv.name, dimension, index))
        for norm in self.norms:
            for index, channel in enumerate(norm.channels):
                found[int(channel)].append((norm.name, 0, index))
        return found


def build_graph(model: nn.Module, *, imgsz: int, keep: Sequence[str] = ()) -> ChannelGraph:
    """Find the channel dependencies of a detection model; the model is only read.

    Args:
        model: An unfused Ultralytics DetectionModel.
        imgsz: Image side in pixels that operations are counted at.
        keep: Modules, by name or prefix at a dot, whose output channels all stay.

    Raises:
        UsageError: A name in `keep` is not in the model, or the stride does not divide `imgsz`.
        UnsupportedModel: The model is fused, or uses a layer twice.
    """
    stride = int(max(getattr(model, "stride", [32])))
    if imgsz < stride or imgsz % stride:
        raise UsageError(
            f"imgsz={imgsz} is not a multiple of the model's stride {stride}; "
            f"give imgsz={max(1, -(-imgsz // stride)) * stride}"
        )
    tracer = Tracer(model, imgsz, RULES)
    tracer.trace()
    _freeze_kept(model, tracer, keep)
    return _number(model, tracer)


def _freeze_kept(model: nn.Module, tracer: Tracer, keep: Sequence[str]) -> None:
    names = [name for name, _ in model.named_modules() if name]
    for wanted in keep:
        found = [conv for conv in tracer.convolutions if conv.name == wanted or conv.name.startswith(f"{wanted}.")]
        if wanted not in names:
            close = difflib.get_close_matches(wanted, names, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else f"the model has {names[1]} to {names[-1]}"
            raise UsageError(f"keep={wanted} is not a layer of this model; {hint}")
        for conv in found:
            tracer.freeze(conv.outputs, f"named in keep={wanted}")


def _number(model: nn.Module, tracer: Tracer) -> ChannelGraph:
    """Turn variables into channel numbers, and put channels into groups and groups into units."""
    roots, numbers = np.unique([tracer.root(v) for v in range(tracer.variables)], return_inverse=True)
    frozen: dict[int, str] = {}
    for variable, why in tracer.frozen.items():
        frozen.setdefault(int(numbers[variable]), why)
    convolutions = tuple(
        replace(conv, inputs=numbers[conv.inputs], outputs=numbers[conv.outputs]) for conv in tracer.convolutions
    )
    norms = tuple(replace(norm, channels=numbers[norm.channels]) for norm in tracer.norms)
    rows = [(numbers[lead], numbers[following]) for lead, following in tracer.bundles]
    halves = [(numbers[a], numbers[b]) for a, b in tracer.ties]
    halves += [(lead.flatten(), following.flatten()) for lead, following in rows]
    _freeze_in_step(halves, frozen)
    places = [channels for conv in convolutions for channels in (conv.inputs, conv.outputs)]
    groups = _groups(len(roots), places + [half for pair in halves for half in pair], frozen)
    while _freeze_uneven(halves, groups, frozen):
        _freeze_in_step(halves, frozen)
        groups = _groups(len(roots), places + [half for pair in halves for half in pair], frozen)
    counted = sum(_weights(conv) for conv in convolutions) + sum(2 * len(n.channels) for n in norms if n.affine)
    return ChannelGraph(
        channels=len(roots),
        imgsz=tracer.imgsz,
        convolutions=convolutions,
        norms=norms,
        attributes=tuple(replace(item, channels=numbers[item.channels]) for item in tracer.attributes),
        frozen=frozen,
        groups=groups,
        units=_units(groups, halves, {int(following[0, 0]) for _, following in rows}, frozen),
        bundles=_bundles(groups, rows, frozen),
        products=tuple((numbers[channels], ops) for channels, ops in tracer.products),
        fixed_params=sum(p.numel() for p in model.parameters()) - counted,
        fixed_ops=tracer.fixed_ops,
        notes=tracer.notes(),
    )


def _weights(conv: Convolution) -> int:
    per_filter = 1 if conv.depthwise else len(conv.inputs) // conv.groups
    return len(conv.outputs) * (conv.area * per_filter + conv.bias)


def _freeze_in_step(halves: Iterable[tuple[IntArray, IntArray]], frozen: dict[int, str]) -> None:
    """Freeze a half as soon as any channel of either half is frozen: both must lose the same number."""
    changed = True
    while changed:
        changed = False
        for half, other in halves:
            both = np.concatenate([half, other]).tolist()
            why = next((frozen[c] for c in both if c in frozen), None)
            if why is not None and any(c not in frozen for c in both):
                changed = True
                reason = f"{IN_STEP}{why.removeprefix(IN_STEP)}"
                for channel in both:
                    frozen.setdefault(channel, reason)


def _freeze_uneven(
    halves: Iterable[tuple[IntArray, IntArray]], groups: Sequence[IntArray], frozen: dict[int, str]
) -> bool:
    """Freeze halves that are not one whole group each: equal counts could not be promised there."""
    whole = {tuple(group.tolist()) for group in groups}
    changed = False
    for pair in halves:
        if pair[0][0] in frozen or all(tuple(np.sort(half).tolist()) in whole for half in pair):
            continue
        changed = True
        for channel in np.concatenate(pair).tolist():
            frozen.setdefault(channel, "its halves are coupled to several layers")
    return changed


def _groups(count: int, places: Sequence[IntArray], frozen: dict[int, str]) -> tuple[IntArray, ...]:
    """Split channels by where they appear, how often there, and whether they are frozen."""
    seen: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for place, channels in enumerate(places):
        present, times = np.unique(channels, return_counts=True)
        for channel, n in zip(present.tolist(), times.tolist(), strict=True):
            seen[channel].append((place, n))
    by_signature: dict[tuple[bool, tuple[tuple[int, int], ...]], list[int]] = {}
    for channel in range(count):
        by_signature.setdefault((channel in frozen, tuple(seen[channel])), []).append(channel)
    return tuple(np.array(members, dtype=np.int64) for members in by_signature.values())


def _bundles(
    groups: Sequence[IntArray], rows: Iterable[tuple[IntArray, IntArray]], frozen: dict[int, str]
) -> tuple[Bundle, ...]:
    owner = {int(channel): index for index, group in enumerate(groups) for channel in group}
    return tuple(
        Bundle(owner[int(lead[0, 0])], owner[int(following[0, 0])], lead, following)
        for lead, following in rows
        if int(lead[0, 0]) not in frozen
    )


def _units(
    groups: Sequence[IntArray], halves: Iterable[tuple[IntArray, IntArray]], followers: set[int], frozen: dict[int, str]
) -> tuple[tuple[int, ...], ...]:
    owner = {int(channel): index for index, group in enumerate(groups) for channel in group}
    unit_of = {index: {index} for index, group in enumerate(groups) if int(group[0]) not in frozen}
    for half, other in halves:
        a, b = owner[int(half[0])], owner[int(other[0])]
        if a in unit_of:
            merged = unit_of[a] | unit_of[b]
            for member in merged:
                unit_of[member] = merged
    last = {owner[channel] for channel in followers}
    return tuple(sorted({tuple(sorted(members, key=lambda g: (g in last, g))) for members in unit_of.values()}))
