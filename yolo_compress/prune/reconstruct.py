# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Closed-form repair: give every layer behind a removal the weights that bring its output nearest to what it was.

For a convolution with weights W of the full model, let y = W x be its output there and x' what the same layer reads
in the pruned model, at sampled positions of unlabelled images. Its new weights and offset solve

    min over V, b:  E |V x' + b - y|^2 + ridge (1 + 10 d / P) v |V - W_kept|^2,

with v the mean variance of x', of d columns, over P positions: few positions per column could be fitted to the last and
mean nothing on other images. The offset goes into the BatchNorm behind it, or into the bias. Layers are solved in the
order of execution, so that each one corrects what the ones before it left. Where single weights are masked, the rest of
each filter is fitted, by conjugate gradients, since every filter has a support of its own. He et al., "Channel Pruning
for Accelerating Very Deep Neural Networks", 2017; targets from the full model as in Luo et al., "ThiNet", 2017.

Images pass through both models one top-level module at a time (`walk`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from yolo_compress.errors import DataError
from yolo_compress.prune.allocation import Plan
from yolo_compress.prune.patches import Positions, draw, patches
from yolo_compress.prune.trace import Convolution
from yolo_compress.prune.walk import Maps, Walk, run

See = Callable[[Convolution, torch.Tensor, torch.Tensor], None]  # a convolution, its input and its output

POSITIONS = 100  # per image and layer
RIDGE = 0.01
SCARCE = 10.0  # how much the ridge grows with columns per position
ITERATIONS = 50  # of conjugate gradients, for masked filters


class _Enough(Exception):
    """Everything that was to be seen in a forward pass has been seen."""


def reconstruct_(
    pruned: nn.Module,
    full: nn.Module,
    plan: Plan,
    batches: Iterable[np.ndarray],
    *,
    positions: int = POSITIONS,
    ridge: float = RIDGE,
    seed: int = 0,
    origin: Mapping[str, str] | None = None,
    masks: Mapping[str, torch.Tensor] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> int:
    """Reconstruct every layer behind a removed channel, in place; return how many images were used.

    Args:
        pruned: The model that `surgery.apply` made of `full` and `plan`; changed in place, in eval mode afterwards.
        full: The model before.
        plan: What was removed.
        batches: (N, 3, H, W) float32 in 0 to 1.
        positions: Output positions per image that each layer is fitted on.
        ridge: Pull towards the full model's weights, as a share of the mean variance of what a layer reads.
        seed: Of the positions.
        origin: Names in `full` by names in `pruned` and `plan`, where blocks were taken out as well.
        masks: Which single weights stay, by parameter name; all others are zero in `pruned` and remain so.
        progress: Called with one line per module.

    Raises:
        DataError: There is not one batch.
    """
    pruned.eval()
    full = deepcopy(full).eval()
    generator = torch.Generator().manual_seed(seed)
    images = [torch.as_tensor(batch) for batch in batches]
    if not images:
        raise DataError("reconstruction got no image; give a data YAML with train images, or repair=nothing")
    convolutions: dict[str, list[Convolution]] = {}
    for conv in plan.graph.convolutions:
        convolutions.setdefault(".".join(conv.name.split(".")[:2]), []).append(conv)
    origin, masks = origin or {}, masks or {}
    first = _first_touched(full, plan, origin, masks)
    if first == len(full.model):
        return sum(len(batch) for batch in images)
    with torch.no_grad():
        walk = zip(Walk(full, images).modules(), Walk(pruned, images).modules(), strict=True)
        for (name, module, given), (_, narrow, given_narrow) in walk:
            if name in convolutions and narrow.i >= first:
                layers = _Layers(name, module, narrow, plan, convolutions[name], origin, masks)
                layers.reconstruct(given, given_narrow, positions, ridge, generator)
                progress(f"prune: reconstructed {name}")
    return sum(len(batch) for batch in images)


def _first_touched(full: nn.Module, plan: Plan, origin: Mapping[str, str], masks: Mapping[str, torch.Tensor]) -> int:
    """Return the index of the first top-level module that lost something; all behind it reads something else now."""
    left = set(origin.values()) if origin else {name for name, _ in full.named_modules()}
    changed = [conv.name for conv in plan.graph.convolutions if not plan.kept[conv.outputs].all()]
    changed += masks
    changed += [name for name, module in full.named_modules() if isinstance(module, nn.Conv2d) and name not in left]
    return min((int(name.split(".")[1]) for name in changed), default=len(full.model))


@dataclass
class _Layers:
    """The convolutions of one top-level module in both models."""

    name: str
    full: nn.Module
    narrow: nn.Module
    plan: Plan
    convolutions: list[Convolution]
    origin: Mapping[str, str]
    masks: Mapping[str, torch.Tensor]

    def reconstruct(
        self,
        given: list[Maps],
        given_narrow: list[Maps],
        positions: int,
        ridge: float,
        generator: torch.Generator,
    ) -> None:
        """Solve the module's convolutions, those that do not wait for each other together."""
        at: dict[str, list[Positions]] = {conv.name: [] for conv in self.convolutions}
        wanted: dict[str, list[torch.Tensor]] = {conv.name: [] for conv in self.convolutions}

        def target(conv: Convolution, x: torch.Tensor, y: torch.Tensor) -> None:
            bias = self._module(self.full, conv).bias
            where = draw(len(y), *y.shape[2:], positions, generator)
            rows = where.rows(y) if bias is None else where.rows(y) - bias
            at[conv.name].append(where)
            wanted[conv.name].append(rows[:, self._kept(conv)].float())

        self._watch(self.full, given, self.convolutions, target)
        for wave in self._waves():
            fits = {conv.name: Regression(self._filters(conv)) for conv in wave}
            done = dict.fromkeys(fits, 0)

            def read(conv: Convolution, x: torch.Tensor, y: torch.Tensor, fits: dict = fits, done: dict = done) -> None:
                batch = done[conv.name]
                rows = patches(self._module(self.narrow, conv), x, at[conv.name][batch]).float()
                if conv.depthwise:
                    fits[conv.name].add(
                        rows.reshape(len(rows), -1, conv.area).movedim(1, 0), wanted[conv.name][batch].T.unsqueeze(2)
                    )
                else:
                    fits[conv.name].add(rows.unsqueeze(0), wanted[conv.name][batch].unsqueeze(0))
                done[conv.name] += 1

            self._watch(self.narrow, given_narrow, wave, read)
            for conv in wave:
                self._solve(conv, fits[conv.name], ridge)

    def _waves(self) -> list[list[Convolution]]:
        """Return the convolutions by how many of the module's own convolutions they wait for."""
        made = {c for conv in self.plan.graph.convolutions if not conv.depthwise for c in conv.outputs.tolist()}
        depth: dict[int, int] = {}
        waves: dict[int, list[Convolution]] = {}
        level = -1
        for conv in self.convolutions:
            if all(c in made for c in conv.inputs.tolist()):
                level = max(depth.get(c, 0) for c in conv.inputs.tolist())
            else:  # the image, or what no convolution made, such as the values of an attention: next in line
                level += 1
            waves.setdefault(level, []).append(conv)
            for channel in conv.outputs.tolist():
                depth[channel] = max(depth.get(channel, 0), level + 1)
        return [waves[level] for level in sorted(waves)]

    def _solve(self, conv: Convolution, regression: Regression, ridge: float) -> None:
        module = self._module(self.narrow, conv)
        if conv.groups > 1 or (conv.norm is None and module.bias is None):
            return  # grouped, which is kept whole, or with nowhere to put an offset: neither is in a supported family
        mask = self.masks.get(f"{conv.name}.weight")
        weight, offset = regression.solve(ridge, None if mask is None else mask.flatten(1).unsqueeze(0))
        module.weight.copy_(weight.reshape(module.weight.shape))
        if conv.norm is not None:
            norm = self.narrow.get_submodule(conv.norm.removeprefix(f"{self.name}."))
            norm.running_mean.sub_(offset.flatten())
        else:
            bias = self._module(self.full, conv).bias[self._kept(conv)]
            module.bias.copy_(bias + offset.flatten())

    def _filters(self, conv: Convolution) -> torch.Tensor:
        """Return the weights as (regressions, outputs, columns): one regression, or one per channel if depthwise."""
        flat = self._module(self.narrow, conv).weight.flatten(1).float()
        return flat.unsqueeze(1) if conv.depthwise else flat.unsqueeze(0)

    def _watch(
        self,
        model: nn.Module,
        given: list[Maps],
        convolutions: list[Convolution],
        see: See,
    ) -> None:
        """Run a module on all batches until the given convolutions have run, showing their inputs and outputs."""
        for batch in range(len(given[0])):
            waiting = {conv.name for conv in convolutions}
            with ExitStack() as stack:
                for conv in convolutions:
                    stack.enter_context(_hook(self._module(model, conv), conv, waiting, see))
                with suppress(_Enough):
                    run(model, [maps[batch] for maps in given])

    def _module(self, model: nn.Module, conv: Convolution) -> nn.Conv2d:
        name = self.origin.get(conv.name, conv.name) if model is self.full else conv.name
        return model.get_submodule(name.removeprefix(f"{self.name}."))

    def _kept(self, conv: Convolution) -> torch.Tensor:
        return torch.from_numpy(self.plan.positions(conv.outputs))


class Regression:
    """Several ridge regressions at once, from sums over rows, so that memory does not grow with the rows."""

    def __init__(self, start: torch.Tensor) -> None:
        """Take the weights (R, o, d) that the ridge pulls towards."""
        self.start, self.count = start, 0

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Take rows into account.

        Args:
            x: (R, P, d) what is read.
            y: (R, P, o) what is wanted.
        """
        missing = y - x @ self.start.transpose(1, 2)  # small where little was removed: sums of it keep their digits
        if not self.count:
            self.around = x.mean(1, keepdim=True)
        self.count += x.shape[1]
        x = x - self.around
        sums = (x.sum(1), missing.sum(1), x.transpose(1, 2) @ x, x.transpose(1, 2) @ missing)
        if self.count == x.shape[1]:
            self.sums = [part.double() for part in sums]
        else:
            for total, part in zip(self.sums, sums, strict=True):
                total += part

    def solve(self, ridge: float, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weights (R, o, d) and offsets (R, o), in float32.

        Args:
            ridge: Pull, as a share of the mean variance of what is read.
            mask: (R, o, d), True where a weight may differ from the start.
        """
        mean_x, mean, xx, xy = (total / self.count for total in self.sums)
        left = xx - mean_x.unsqueeze(2) * mean_x.unsqueeze(1)
        right = xy - mean_x.unsqueeze(2) * mean.unsqueeze(1)
        variance = left.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
        pull = ridge * (1 + SCARCE * left.shape[1] / self.count)
        left.diagonal(dim1=1, dim2=2).add_(pull * variance[:, None])
        if mask is None:
            change = torch.linalg.solve(left, right).transpose(1, 2)
        else:
            change = conjugate_gradients(left, right.transpose(1, 2), mask)
        offset = mean - (change @ (mean_x + self.around.squeeze(1)).unsqueeze(2)).squeeze(2)
        return (self.start.double() + change).float(), offset.float()


def conjugate_gradients(
    left: torch.Tensor, right: torch.Tensor, mask: torch.Tensor, *, iterations: int = ITERATIONS
) -> torch.Tensor:
    """Solve left x = right for each row on a support of its own, as far as some iterations lead.

    Args:
        left: (R, d, d) symmetric and positive definite.
        right: (R, o, d).
        mask: (R, o, d) supports; x is zero elsewhere.
        iterations: At most.

    Returns:
        (R, o, d). Hestenes and Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems", 1952, with the
        diagonal as preconditioner.
    """
    scale = left.diagonal(dim1=1, dim2=2).unsqueeze(1).clamp(min=1e-30)
    residual = right * mask
    x = torch.zeros_like(residual)
    direction = residual / scale
    size = (residual * direction).sum(2, keepdim=True)
    enough = 1e-12 * size
    for _ in range(iterations):
        if bool((size <= enough).all()):
            break
        image = (direction @ left) * mask
        step = size / (direction * image).sum(2, keepdim=True).clamp(min=1e-300)
        x += step * direction
        residual -= step * image
        conditioned = residual / scale
        before, size = size, (residual * conditioned).sum(2, keepdim=True)
        direction = conditioned + size / before.clamp(min=1e-300) * direction
    return x


@contextmanager
def _hook(module: nn.Module, conv: Convolution, waiting: set[str], see: See) -> Iterator[None]:
    def seen(_: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        see(conv, given[0], output)
        waiting.discard(conv.name)
        if not waiting:
            raise _Enough

    handle = module.register_forward_hook(seen)
    try:
        yield
    finally:
        handle.remove()
