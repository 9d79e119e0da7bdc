# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The class outputs of a head anew, by logistic regression to what the full model believed.

Least squares on logits weighs -9 against -12 at the thousands of positions that see nothing as it weighs 2 against -1
at the few that see an object, and what a narrower tower cannot tell any more ends near the mean: objects lose
confidence. A detector is read in probabilities. So the last layer of each class tower, with features x, is fitted to
the full model's probabilities p by the convex problem, for each class on its own,

    min over w, b:  sum over positions of H(p, sigmoid(w x + b)) + pull v |w - w_0|^2 / 2,

with H the cross-entropy, v the mean variance of x, and w_0 what reconstruction gave. It is solved by Newton's method
(iteratively reweighted least squares; McCullagh and Nelder, "Generalized Linear Models", 1989). Positions are drawn
half evenly and half by the full model's belief, and weighted by the inverse of their chance, so that sums are those
over all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from yolo_compress.host.detect import class_outputs

POSITIONS = 400  # per image and level
PULL = 10.0  # in units of positions: a class that was seen at fewer stays near where it was
ITERATIONS = 8
ENOUGH = 1e-5  # share of the loss that an iteration has to gain to be followed by another
HALVINGS = 5


@dataclass
class _Seen:
    """What one class output reads at drawn positions, what it should say there, and how many positions each is."""

    x: list[torch.Tensor]
    wanted: list[torch.Tensor]
    weight: list[torch.Tensor]


def fit_classes_(
    pruned: nn.Module,
    full: nn.Module,
    batches: Iterable[np.ndarray],
    *,
    positions: int = POSITIONS,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> int:
    """Fit the class outputs of a pruned detector to the probabilities of the full one, in place; count the images.

    Args:
        pruned: In eval mode, with the classes of `full`.
        full: The model before.
        batches: (N, 3, H, W) float32 in 0 to 1.
        positions: Per image and level that each output is fitted on.
        seed: Of the positions.
        progress: Called with a line per batch and per output.
    """
    generator = torch.Generator().manual_seed(seed)
    full = deepcopy(full).eval()
    narrow, wide = class_outputs(pruned), class_outputs(full)
    seen = {name: _Seen([], [], []) for name in narrow}
    logits: dict[str, torch.Tensor] = {}
    inputs: dict[str, torch.Tensor] = {}
    hooks = [module.register_forward_hook(_keep(logits, name, 1)) for name, module in wide.items()]
    hooks += [module.register_forward_hook(_keep(inputs, name, 0)) for name, module in narrow.items()]
    images = 0
    try:
        with torch.no_grad():
            for batch in batches:
                for model in (full, pruned):
                    like = next(model.parameters())
                    model(torch.as_tensor(batch, dtype=like.dtype, device=like.device))
                for name, item in seen.items():
                    at, weight = _drawn(logits[name], positions, generator)
                    item.x.append(_rows(inputs[name], at))
                    item.wanted.append(_rows(logits[name], at).sigmoid())
                    item.weight.append(weight)
                images += len(batch)
                progress(f"prune: what class outputs read, on {images} images")
    finally:
        for hook in hooks:
            hook.remove()
    for name, item in seen.items() if images else ():
        module = narrow[name]
        x, wanted, weight = torch.cat(item.x), torch.cat(item.wanted), torch.cat(item.weight)
        start = torch.cat([module.weight.flatten(1), module.bias[:, None]], 1).detach().cpu().double()
        fitted = logistic_regression(x, wanted, weight, start)
        with torch.no_grad():
            module.weight.copy_(fitted[:, :-1].reshape(module.weight.shape))
            module.bias.copy_(fitted[:, -1])
        progress(f"prune: fitted {name}")
    return images


def logistic_regression(
    x: torch.Tensor, wanted: torch.Tensor, weight: torch.Tensor, start: torch.Tensor, *, pull: float = PULL
) -> torch.Tensor:
    """Return the weights that minimise the loss of this module, for each class on its own.

    Args:
        x: (P, d) features.
        wanted: (P, C) probabilities.
        weight: (P,) how many positions each row stands for.
        start: (C, d + 1) float64 weights and, last, offsets, which the pull leads back to.
        pull: How many positions the start counts for.

    Returns:
        (C, d + 1), float64; no class has a larger loss than at the start.
    """
    around = x.mean(0)
    design = torch.cat([x - around, torch.ones_like(x[:, :1])], 1)
    ridge = torch.full((design.shape[1],), pull * float(x.var(0).mean()), dtype=torch.float64)
    ridge[-1] = pull / 100  # the offset is hardly held, yet a class that is never seen has a solution
    origin = start.clone()
    origin[:, -1] += start[:, :-1] @ around.double()

    def losses(found: torch.Tensor) -> torch.Tensor:
        logits = design @ found.T.to(design)
        each = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return (weight @ each).double() + ((found - origin).square() * ridge).sum(1) / 2

    found, loss = origin.clone(), losses(origin)
    for _ in range(ITERATIONS):
        p = (design @ found.T.to(design)).sigmoid()
        gradient = ((p - wanted) * weight[:, None]).T @ design
        gradient = gradient.double() + (found - origin) * ridge
        curvature = p * (1 - p) * weight[:, None]
        step = torch.zeros_like(found)
        for index in range(len(found)):
            rows = curvature[:, index] > 1e-6  # the others weigh nothing in float32
            scaled = design[rows] * curvature[rows, index, None].sqrt()
            hessian = (scaled.T @ scaled).double()
            hessian.diagonal().add_(ridge)
            step[index] = torch.linalg.solve(hessian, gradient[index])
        tried = found - step
        for _ in range(HALVINGS):
            worse = losses(tried) > loss
            if not bool(worse.any()):
                break
            step[worse] /= 2
            tried = found - step
        reached = losses(tried)
        better = reached < loss
        gained = float((loss - reached)[better].sum())
        found = torch.where(better[:, None], tried, found)
        loss = torch.minimum(loss, reached)
        if gained <= ENOUGH * float(loss.sum()):
            break
    found[:, -1] -= found[:, :-1] @ around.double()
    return found


def _keep(kept: dict[str, torch.Tensor], name: str, which: int) -> Callable[..., None]:
    def hook(_: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        kept[name] = (given[0], output)[which].detach()

    return hook


def _drawn(logits: torch.Tensor, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw positions of (N, C, H, W) logits; return (N, K) indices into H W, and how many positions each stands for."""
    belief = logits.amax(1).flatten(1).float().sigmoid().cpu()
    area = belief.shape[1]
    if area <= count:
        return torch.arange(area).expand(len(belief), area), torch.ones(belief.numel())
    chance = 0.5 / area + 0.5 * belief / belief.sum(1, keepdim=True)
    at = torch.multinomial(chance, count, replacement=True, generator=generator)
    return at, (1 / (count * chance.gather(1, at))).flatten()


def _rows(maps: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Return what (N, C, H, W) holds at (N, K) positions, as float32 (N K, C)."""
    flat = maps.flatten(2).float().cpu()
    return flat.gather(2, at[:, None].expand(-1, flat.shape[1], -1)).movedim(1, 2).flatten(0, 1)
