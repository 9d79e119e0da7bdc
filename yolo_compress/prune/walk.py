# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Images through a detector one top-level module at a time, all of them at once.

Going through the modules once, only feature maps that a later one still reads are kept; for a model that is run on from
anywhere, all are. Both in half precision where they fit.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

Maps = list[torch.Tensor]  # what a module gives or takes, one per batch of images


class Walk:
    """Feature maps of a model, one top-level module after the other, for all images at once."""

    def __init__(self, model: nn.Module, images: Maps) -> None:
        self.model, self.images = model, images
        self.kept: dict[int, Maps] = {-1: images}
        self.last_use = {layer.i: layer.i for layer in model.model}
        for layer in model.model:
            for source in _sources(layer):
                self.last_use[source] = max(self.last_use.get(source, 0), layer.i)

    def modules(self) -> Iterator[tuple[str, nn.Module, list[Maps]]]:
        """Yield each module with what it reads; it is run after the consumer has had its turn at it."""
        layers = list(self.model.model)
        for layer in layers:
            given = [self.kept[source] for source in _sources(layer)]
            yield f"model.{layer.i}", layer, given
            if layer is not layers[-1]:
                self.kept[layer.i] = self._given(layer, self.kept)
            self._drop(self.kept, layer.i)

    def run_from(self, index: int) -> None:
        """Run the modules from one on, but for the last, and keep what all of them give: for a model that changes."""
        for layer in self.model.model[index:-1]:
            self.kept[layer.i] = self._given(layer, self.kept)

    def end(self, layer: nn.Module) -> list[object]:
        """Return what the model gives, one per batch, run on from a module without changing what is kept."""
        kept = dict(self.kept)
        for following in self.model.model[layer.i : -1]:
            kept[following.i] = self._given(following, kept)
            self._drop(kept, following.i)
        last = self.model.model[-1]
        given = [kept[source] for source in _sources(last)]
        return [run(last, [maps[b] for maps in given]) for b in range(len(self.images))]

    def _given(self, layer: nn.Module, kept: dict[int, Maps]) -> Maps:
        given = [kept[source] for source in _sources(layer)]
        return [_packed(run(layer, [maps[b] for maps in given])) for b in range(len(self.images))]

    def _drop(self, kept: dict[int, Maps], done: int) -> None:
        for index in [i for i in kept if self.last_use.get(i, 0) <= done and i != done]:
            del kept[index]


def run(layer: nn.Module, given: list[torch.Tensor]) -> object:
    """Run a module on one batch, in the type of its weights."""
    wide = torch.float32 if given[0].dtype == torch.half else given[0].dtype
    dtype = next((p.dtype for p in layer.parameters()), wide)
    cast = [tensor.to(dtype) for tensor in given]
    return layer(cast[0] if isinstance(layer.f, int) else cast)


def _sources(layer: nn.Module) -> list[int]:
    """Return the indices of the modules that a module reads, -1 for the image."""
    named = [layer.f] if isinstance(layer.f, int) else layer.f
    return [layer.i - 1 if source == -1 else source for source in named]


def _packed(maps: torch.Tensor) -> torch.Tensor:
    """Return float32 maps in half precision where they fit, and others as they are."""
    fits = maps.dtype == torch.float32 and maps.abs().amax() < torch.finfo(torch.half).max
    return maps.half() if fits else maps
