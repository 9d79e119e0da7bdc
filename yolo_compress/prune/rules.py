# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""How each block treats its channels: one function per class, the symbolic twin of that class's forward.

A new block is one function and one line in `RULES`. Rules read widths from the weights, never from a YAML, so that a
model that was pruned before is read as it is. Classes are matched exactly: a subclass may compute something else.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from yolo_compress.errors import UnsupportedModel
from yolo_compress.host.ultralytics import (
    C2PSA,
    C3,
    DFL,
    SPPF,
    Attention,
    Bottleneck,
    C2f,
    C3k,
    C3k2,
    Concat,
    Conv,
    Detect,
    DWConv,
    PSABlock,
)
from yolo_compress.prune.trace import Feature, Rule, Tracer, Value

HEAD = "box bins and class scores"
SINGLE = "attention with a single head"


def conv(t: Tracer, name: str, m: Conv, x: Feature) -> Feature:
    """Convolution, BatchNorm, activation."""
    if not hasattr(m, "bn"):
        raise UnsupportedModel(f"'{name}' is fused with its BatchNorm; give the checkpoint from before fusing")
    x = t.convolve(f"{name}.conv", m.conv, x, layer=name, norm=f"{name}.bn")
    return t.activate(name, m.act, t.normalise(f"{name}.bn", m.bn, x))


def conv2d(t: Tracer, name: str, m: nn.Conv2d, x: Feature) -> Feature:
    """Bare convolution."""
    return t.convolve(name, m, x, layer=name)


def batch_norm(t: Tracer, name: str, m: nn.BatchNorm2d, x: Feature) -> Feature:
    """Bare BatchNorm."""
    return t.normalise(name, m, x)


def sequential(t: Tracer, name: str, m: nn.Sequential, x: Value) -> Value:
    """One after the other."""
    for key, child in m.named_children():
        x = t.run(f"{name}.{key}", child, x)
    return x


def identity(t: Tracer, name: str, m: nn.Module, x: Value) -> Value:
    """Channels pass."""
    return x


def activation(t: Tracer, name: str, m: nn.Module, x: Feature) -> Feature:
    """Channels pass where 0 stays 0."""
    return t.activate(name, m, x)


def resize(t: Tracer, name: str, m: nn.Module, x: Feature) -> Feature:
    """Channels pass, the size changes."""
    return t.resize(m, x)


def concat(t: Tracer, name: str, m: Concat, x: list[Feature]) -> Value:
    """Channels one after the other."""
    if m.d != 1:
        return t.opaque(name, m, x, f"a concatenation along dimension {m.d}")
    return _cat(x)


def bottleneck(t: Tracer, name: str, m: Bottleneck, x: Feature) -> Feature:
    """Two convolutions, with a residual where `add` is set."""
    y = t.map(f"{name}.cv2", m.cv2, t.map(f"{name}.cv1", m.cv1, x))
    return t.unite(x, y) if m.add else y


def c2f(t: Tracer, name: str, m: C2f, x: Feature) -> Feature:
    """Chunk into equal halves, a chain of inner blocks on the second, concatenate everything."""
    first, second = _halves(t, name, t.map(f"{name}.cv1", m.cv1, x))
    parts = [first, second]
    for index, block in enumerate(m.m):
        parts.append(t.map(f"{name}.m.{index}", block, parts[-1]))
    return t.map(f"{name}.cv2", m.cv2, _cat(parts))


def c3(t: Tracer, name: str, m: C3, x: Feature) -> Feature:
    """Two branches of their own, concatenated."""
    deep = t.map(f"{name}.m", m.m, t.map(f"{name}.cv1", m.cv1, x))
    return t.map(f"{name}.cv3", m.cv3, _cat([deep, t.map(f"{name}.cv2", m.cv2, x)]))


def sppf(t: Tracer, name: str, m: SPPF, x: Feature) -> Feature:
    """A convolution and its poolings, concatenated, with a residual where `add` is set."""
    parts = [t.map(f"{name}.cv1", m.cv1, x)]
    for _ in range(getattr(m, "n", 3)):  # checkpoints from before these two attributes existed lack them
        parts.append(t.map(f"{name}.m", m.m, parts[-1]))
    y = t.map(f"{name}.cv2", m.cv2, _cat(parts))
    return t.unite(x, y) if getattr(m, "add", False) else y


def c2psa(t: Tracer, name: str, m: C2PSA, x: Feature) -> Feature:
    """Split into equal halves, attention on the second, concatenate."""
    first, second = _halves(t, name, t.map(f"{name}.cv1", m.cv1, x))
    return t.map(f"{name}.cv2", m.cv2, _cat([first, t.map(f"{name}.m", m.m, second)]))


def psa_block(t: Tracer, name: str, m: PSABlock, x: Feature) -> Feature:
    """Attention, then a feed-forward pair, each with a residual where `add` is set."""
    y = t.map(f"{name}.attn", m.attn, x)
    x = t.unite(x, y) if m.add else y
    y = t.map(f"{name}.ffn", m.ffn, x)
    return t.unite(x, y) if m.add else y


def attention(t: Tracer, name: str, m: Attention, x: Feature) -> Feature:
    """Multi-head self-attention: heads go whole.

    Stock attention reshapes its values to as many channels as it reads, so that a head that goes takes as many channels
    of the map around it along, whichever matter least there.
    """
    if m.num_heads == 1:
        t.note_whole(name, SINGLE)
    qkv = t.map(f"{name}.qkv", m.qkv, x)
    by_head = qkv.channels.reshape(m.num_heads, 2 * m.key_dim + m.head_dim)
    keys, values = by_head[:, : 2 * m.key_dim], by_head[:, 2 * m.key_dim :]
    if m.num_heads == 1:
        t.freeze(qkv.channels, SINGLE)
    t.bundle(values, keys)
    t.tie(x.channels, values.flatten())
    t.width(name, "num_heads", values[:, 0])
    tokens = x.height * x.width
    t.multiply(keys.flatten(), tokens**2)  # queries times keys: half of it for either
    t.multiply(values.flatten(), 2 * tokens**2)
    return t.map(f"{name}.proj", m.proj, t.map(f"{name}.pe", m.pe, x.with_channels(values.flatten())))


def detect(t: Tracer, name: str, m: Detect, x: list[Feature]) -> list[Feature]:
    """Box and class towers per level, for each branch that the head has; only their last outputs are kept whole."""
    branches = [b for b in ("cv2", "cv3", "one2one_cv2", "one2one_cv3") if getattr(m, b, None) is not None]
    if "cv2" not in branches:
        raise UnsupportedModel(f"'{name}' has lost a branch to fusing; give the checkpoint from before fusing")
    for branch in branches:
        for level, (tower, feature) in enumerate(zip(getattr(m, branch), x, strict=True)):
            t.freeze(t.map(f"{name}.{branch}.{level}", tower, feature).channels, HEAD)
    t.note_whole(name, HEAD)
    if isinstance(m.dfl, DFL):
        t.fixed_ops += 2 * m.dfl.c1 * 4 * sum(f.height * f.width for f in x)
    return x


def _cat(parts: list[Feature]) -> Feature:
    return parts[0].with_channels(np.concatenate([part.channels for part in parts]))


def _halves(t: Tracer, name: str, x: Feature) -> tuple[Feature, Feature]:
    first, second = np.split(x.channels, 2)
    t.tie(first, second)
    t.width(name, "c", second)
    return x.with_channels(first), x.with_channels(second)


RULES: dict[type[nn.Module], Rule] = {
    Conv: conv,
    DWConv: conv,
    nn.Conv2d: conv2d,
    nn.BatchNorm2d: batch_norm,
    nn.Sequential: sequential,
    nn.Identity: identity,
    nn.Dropout: identity,
    nn.SiLU: activation,
    nn.ReLU: activation,
    nn.LeakyReLU: activation,
    nn.MaxPool2d: resize,
    nn.Upsample: resize,
    Concat: concat,
    Bottleneck: bottleneck,
    C2f: c2f,
    C3k2: c2f,
    C3: c3,
    C3k: c3,
    SPPF: sppf,
    C2PSA: c2psa,
    PSABlock: psa_block,
    Attention: attention,
    Detect: detect,
}
