"""Confidence intervals by the percentile bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

DRAWS, LEVEL, AT_ONCE = 1000, 0.95, 100
"""Draws, the interval's share of them, and draws made at once, which bounds memory."""
Metric = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
"""Of sums (…, *) to values (…), for what * the units have."""


class Interval(NamedTuple):
    """The middle of a statistic's values over redrawn units; NaN without units."""

    low: float
    high: float


def bootstrap(units: Sequence[Any] | npt.NDArray[Any],
              statistic: Metric | None = None, *,
              ids: npt.NDArray[np.str_] | None = None,
              draws: int = DRAWS, level: float = LEVEL, seed: int = 0) -> Interval:
    """A statistic's interval when as many units are drawn again, with replacement.

    Pairs share images, so images are drawn, not pairs: a pair counts as often as the product of
    its images' numbers (the pigeonhole bootstrap, Owen 2007, which errs towards wide intervals).

    Parameters
    ----------
    units : (N, …), one entry for all that stands or falls together: an image, a pair
    ids : (N, 2) images of each pair, (N, 1) or None where units are drawn themselves
    statistic : of the drawn units' sums (draws, …) to (draws,); by default the mean of numbers
    draws : how often all are drawn
    level : share of the draws inside the interval, in (0, 1)
    seed : of the random numbers

    Returns
    -------
    Interval
        Percentiles of the draws whose statistic is a number.
    """
    values = np.asarray(units, dtype=np.float64)
    count = len(values)
    of_sums = statistic or (lambda totals: totals / count)
    members = np.arange(count)[:, None]
    if ids is not None and ids.shape[1] > 1:
        members = np.unique(ids, return_inverse=True)[1].reshape(ids.shape)
    drawn = int(members.max(initial=0)) + 1
    generator = np.random.default_rng(seed)
    statistics = [np.empty(0)]
    for start in range(0, draws if count else 0, AT_ONCE):
        size = min(AT_ONCE, draws - start)
        times = generator.multinomial(drawn, np.full(drawn, 1 / drawn), size)
        times = times[:, members].prod(-1)  # (draws, N): how often each unit counts
        sums = times @ values.reshape(count, -1)  # no redrawn copy of the units is made
        statistics.append(of_sums(sums.reshape(size, *values.shape[1:])))
    found = np.concatenate(statistics)
    valid = found[~np.isnan(found)]  # a draw may have nothing that counts
    if not len(valid):
        return Interval(np.nan, np.nan)
    low, high = np.quantile(valid, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


@dataclass(frozen=True)
class Spread:
    """A figure over images.

    Attributes
    ----------
    std : between images
    interval : of the mean, 95 % by bootstrap over images
    """

    mean: float
    std: float
    interval: Interval

    @classmethod
    def of(cls, values: npt.NDArray[np.float64]) -> Spread:
        """Of one value an image."""
        std = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        return cls(float(values.mean()), std, bootstrap(values))


def gain(ours: Sequence[npt.NDArray[Any]], theirs: Sequence[npt.NDArray[Any]],
         metric: Metric, ids: npt.NDArray[np.str_] | None = None) -> tuple[float, Interval]:
    """How much higher a metric is for some models than for others, over the same items.

    Parameters
    ----------
    ours, theirs : (N, …) counts of each model; several are seeds of one training, and averaged
    metric : of counts summed over items
    ids : as of `bootstrap`

    Returns
    -------
    float, Interval
        Mean difference, and its interval when items are drawn again, for all models together.
    """
    split, both = len(ours), np.stack([*ours, *theirs], axis=1)

    def difference(totals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        values = metric(totals)
        return np.asarray(values[..., :split].mean(-1) - values[..., split:].mean(-1))

    return float(difference(both.sum(0))), bootstrap(both, difference, ids=ids)
