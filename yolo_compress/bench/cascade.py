# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""When a cascade sends an image on: what the doubt of its cheap engine means, found out without labels.

On images that accuracy is not measured on: how many boxes the two engines disagree about, as a function of the doubt
that can only rise (isotonic regression; as Zadrozny and Elkan 2002 calibrate scores).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from yolo_compress.bench.accuracy import DEPLOYED_CONF
from yolo_compress.bench.yolo_val import match
from yolo_compress.engines.cascade import Rule, boxes, doubt
from yolo_compress.errors import DataError, UsageError


def fit_rule(
    cheap: Callable[[np.ndarray], np.ndarray],
    precise: Callable[[np.ndarray], np.ndarray],
    inputs: Iterable[np.ndarray],
    *,
    share: float | None = None,
    differing: float | None = None,
) -> Rule:
    """Fit when images go on, without labels.

    Args:
        cheap: Gives the raw answer of the cheap engine to an image (1, 3, H, W).
        precise: Gives that of the other one.
        inputs: Calibration images, none of which accuracy is measured on.
        share: Share of such images that is to go on; give this or `differing`.
        differing: Images go on where the engines are expected to disagree about more boxes than this.

    Raises:
        UsageError: None or both of the two are given, or one is out of range.
        DataError: There are fewer than two images.
    """
    from scipy.optimize import isotonic_regression
    from scipy.stats import spearmanr

    if (share is None) == (differing is None):
        raise UsageError("a cascade needs to know when images go on; give share=0.25 or differing=1, and one of them")
    if share is not None and not 0 < share < 1:
        raise UsageError(f"share={share} makes no cascade; give a number between 0 and 1, such as 0.25")
    if differing is not None and not differing >= 0:
        raise UsageError(f"differing={differing} is no number of boxes; give 0 or more")
    pairs = [(doubt(first), differences(first, precise(image))) for image in inputs for first in (cheap(image),)]
    if len(pairs) < 2:
        raise DataError(f"a cascade cannot be fitted to {len(pairs)} images; give training images, better 128 or more")
    doubts, counts = (np.array(column, float) for column in zip(*sorted(pairs), strict=True))
    curve = isotonic_regression(counts).x
    if share is not None:
        threshold = float(np.quantile(doubts, 1 - share))
    else:
        below = doubts[curve <= differing]
        threshold = float(below[-1]) if len(below) else -1.0
    varied = len(set(doubts)) > 1 and len(set(counts)) > 1
    correlation = float(spearmanr(doubts, counts).statistic) if varied else 0.0
    went = float((doubts > threshold).mean())
    return Rule(threshold, went, tuple(doubts.tolist()), tuple(curve.tolist()), correlation, len(pairs))


def differences(first: np.ndarray, second: np.ndarray) -> int:
    """Return how many boxes that are shown, of two raw answers to one image, have no partner of their class there."""
    one, other = (found[found[:, 4] >= DEPLOYED_CONF] for found in (boxes(first), boxes(second)))
    objects = np.column_stack([other[:, 5], other[:, :2], other[:, 2:4] - other[:, :2]])
    return len(one) + len(other) - 2 * int(match(objects, one)[:, 0].sum())
