# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""How well some images cover a data set, as one number, and the greedy search for images that do it best.

The objective of a set S of n images is

    F(S) = sum_f w_f sum_b sqrt(t_fb c_fb(S) / (n m_f)),   sum_f w_f = 1,   sum_b t_fb = 1,   t_fb ~ N_fb^(1 - balance)

where an image that falls into k bins of feature f counts 1 / k in each of them, c_fb(S) and N_fb are what the chosen
and all N images count in bin b, and m_f = sum_b N_fb / N is the share of images that fall into any bin of the feature.
Where that is all of them, the inner sum is the Bhattacharyya coefficient of what is wanted, t, and what is there,
c / n: at most 1, which it reaches where the chosen images are spread over the bins as wanted. With balance=0 that is
as the data set is, with balance=1 every bin is wanted equally often, however rare it is. The shares 1 / k keep busy
images from being preferred for being in many bins.

A concave function of a count rises ever more slowly, and so does the sum: F is monotone and submodular (Lin and Bilmes
2011, A Class of Submodular Functions for Document Summarization). For such an F, taking n times the image that adds
most gives at least 1 - (1 - 1/n)^n > 1 - 1/e = 63 % of what the best n images give (Nemhauser, Wolsey and Fisher 1978,
An Analysis of Approximations for Maximizing Submodular Set Functions I). What an image adds can only shrink as others
are taken, so that one whose old figure is too small need not be looked at again (Minoux 1978, Accelerated Greedy
Algorithms for Maximizing Submodular Set Functions).

Where several good sets are wanted, each step looks at a few images alone, drawn at random: (N / n) ln(1 / epsilon) of
them still give 1 - 1/e - epsilon of the best on average (Mirzasoleiman et al. 2015, Lazier Than Lazy Greedy), and sets
of other draws have other images.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, hstack

from yolo_compress.calibrate.bins import Feature
from yolo_compress.errors import UsageError, suggest

BALANCE = 0.5
DRAWS = 20  # random ones that a choice is compared with
EPSILON = 0.1  # what looking at a few images at each step may cost


@dataclass(frozen=True)
class Figures:
    """How well a choice covers one feature, beside the mean over `DRAWS` random draws of as many images.

    Attributes:
        bins: Bins that hold an image of the data set.
        covered: Share of them that hold a chosen image.
        random_covered: The same of random draws.
        score: The feature's part of the objective, w_f left out.
        random_score: The same of random draws.
    """

    bins: int
    covered: float
    random_covered: float
    score: float
    random_score: float


class Objective:
    """F for sets of n images; see the module."""

    def __init__(
        self,
        features: Sequence[Feature],
        n: int,
        *,
        weights: Mapping[str, float] | None = None,
        balance: float = BALANCE,
    ) -> None:
        """Prepare to judge.

        Args:
            features: Of all images.
            n: Images in a set.
            weights: By feature, 1 where not given; only their ratios matter.
            balance: Between 0, bins are wanted as often as they are, and 1, all equally often.

        Raises:
            UsageError: A weight of no feature, a negative one, or none above zero; `balance` out of range.
        """
        given = dict(weights or {})
        self.features = tuple(features)
        names = [feature.name for feature in self.features]
        _check(given, names, balance)
        self.weights = {name: float(given.get(name, 1.0)) for name in names}
        total = sum(self.weights.values())
        if not total:
            raise UsageError("all weights are 0, so that no image is better than another; give one above 0")
        self.n = n
        self.members: csr_matrix = hstack([feature.members for feature in self.features], format="csr")
        self.inner = np.concatenate([_bin_factors(feature, n, balance) for feature in self.features])
        shares = [np.full(feature.bins, self.weights[feature.name] / total) for feature in self.features]
        self.factors = self.inner * np.concatenate(shares)

    def value(self, chosen: Sequence[int] | np.ndarray) -> float:
        """Return F of some images, by their numbers."""
        return float(self.factors @ np.sqrt(self.counts(chosen)))

    def counts(self, chosen: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return what the chosen images count in each bin, features one after the other."""
        return np.asarray(self.members[np.asarray(chosen, int)].sum(axis=0)).ravel()

    def figures(self, chosen: Sequence[int] | np.ndarray, *, seed: int) -> dict[str, Figures]:
        """Return how well a choice covers each feature, beside random draws."""
        draws = [self.counts(draw) for draw in self.draws(len(chosen), seed=seed)]
        here, start, found = self.counts(chosen), 0, {}
        for feature in self.features:
            part = slice(start, start + feature.bins)
            inner = self.inner[part]
            found[feature.name] = Figures(
                feature.bins,
                float((here[part] > 0).mean()),
                float(np.mean([(counts[part] > 0).mean() for counts in draws])),
                float(inner @ np.sqrt(here[part])),
                float(np.mean([inner @ np.sqrt(counts[part]) for counts in draws])),
            )
            start += feature.bins
        return found

    def draws(self, n: int, *, seed: int) -> list[np.ndarray]:
        """Return `DRAWS` random draws of n images without replacement."""
        rng = np.random.default_rng([seed, DRAWS])  # not the draw that method=random makes of the same seed
        return [rng.choice(self.members.shape[0], n, replace=False) for _ in range(DRAWS)]


def cover(objective: Objective, *, seed: int) -> list[int]:
    """Choose n images by greedy maximization and return their numbers, the most useful first.

    Of images that add the same, the first in an order that the seed shuffles is taken.
    """
    total, taken = objective.members.shape[0], _Taken(objective)
    rank = np.random.default_rng(seed).permutation(total)
    waiting = [(-taken.gain(image), int(rank[image]), image) for image in range(total)]
    heapq.heapify(waiting)
    while waiting and len(taken.images) < objective.n:
        _, order, image = heapq.heappop(waiting)
        now = (-taken.gain(image), order, image)
        if waiting and waiting[0] < now:  # its figure was an old one; others, old or not, may be better
            heapq.heappush(waiting, now)
            continue
        taken.add(image)
    return taken.images


def cover_by_sampling(objective: Objective, random: np.random.Generator) -> list[int]:
    """Choose n images as `cover` does, the best of a few drawn anew at each step, and return their numbers."""
    left, taken = np.arange(objective.members.shape[0]), _Taken(objective)
    few = math.ceil(len(left) / objective.n * math.log(1 / EPSILON))
    while len(left) and len(taken.images) < objective.n:
        drawn = random.choice(len(left), min(few, len(left)), replace=False)
        best = max(drawn, key=lambda place: taken.gain(left[place]))
        taken.add(int(left[best]))
        left = np.delete(left, best)
    return taken.images


class _Taken:
    """Images in the order in which they were taken, and what another one would add to the objective."""

    def __init__(self, objective: Objective) -> None:
        self.images: list[int] = []
        self._table, self._factors = objective.members, objective.factors
        self._counts = np.zeros(self._table.shape[1])

    def gain(self, image: int) -> float:
        bins, share = self._row(image)
        before = self._counts[bins]
        # sqrt(c + a) - sqrt(c), in a form that rounding cannot make grow with c
        return float((self._factors[bins] * (share / (np.sqrt(before + share) + np.sqrt(before)))).sum())

    def add(self, image: int) -> None:
        bins, share = self._row(image)
        self._counts[bins] += share
        self.images.append(image)

    def _row(self, image: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(self._table.indptr[image], self._table.indptr[image + 1])
        return self._table.indices[part], self._table.data[part]


def _bin_factors(feature: Feature, n: int, balance: float) -> np.ndarray:
    """Return sqrt(t_fb / (n m_f)) of each bin."""
    held = np.asarray(feature.members.sum(axis=0)).ravel()
    wanted = held ** (1 - balance)
    mean = held.sum() / feature.members.shape[0]
    return np.sqrt(wanted / wanted.sum() / (n * mean)) if feature.bins else np.empty(0)


def _check(weights: Mapping[str, float], names: Sequence[str], balance: float) -> None:
    if not 0 <= balance <= 1:
        raise UsageError(f"balance={balance} is not possible; give 0, as the data set is, to 1, all bins alike")
    for name, weight in weights.items():
        if name not in names:
            raise UsageError(f"there is no feature '{name}' to weigh; {suggest(name, names)}")
        if not 0 <= weight < float("inf"):
            raise UsageError(f"the weight of {name} is {weight}; give a number of at least 0, such as {name}=2")
