"""Means, spreads, and differences between methods that were run with the same seeds."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Spread(NamedTuple):
    mean: float
    sd: float  # over seeds, with n - 1; nan for a single one
    count: int

    def words(self, scale: float = 1.0, digits: int = 1) -> str:
        """Return "27.4 ± 0.8 (5)".

        >>> spread([0.27, 0.28]).words(100)
        '27.5 ± 0.7 (2)'
        >>> spread([0.27]).words(100)
        '27.0 (1)'
        """
        text = f"{scale * self.mean:.{digits}f}"
        if self.count > 1:
            text += f" ± {scale * self.sd:.{digits}f}"
        return f"{text} ({self.count})"


class Difference(NamedTuple):
    mean: float
    low: float  # of the 95 % interval; nan with fewer than two pairs
    high: float
    count: int

    def words(self, scale: float = 1.0, digits: int = 1) -> str:
        """Return "+0.8 [-0.3, +1.9] (5)".

        >>> paired({0: 1.0, 1: 2.0, 2: 3.5}, {0: 0.0, 1: 1.0, 2: 2.0}).words()
        '+1.2 [+0.4, +1.9] (3)'
        """
        text = f"{scale * self.mean:+.{digits}f}"
        if self.count > 1:
            low, high = scale * self.low, scale * self.high
            text += f" [{low:+.{digits}f}, {high:+.{digits}f}]"
        return f"{text} ({self.count})"

    @property
    def verdict(self) -> str:
        """ "better", "worse" or "no difference shown", by the interval."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "no difference shown"


def spread(values: Sequence[float]) -> Spread:
    """Return mean and standard deviation; nan without values."""
    values = np.asarray(values, float)
    if not len(values):
        return Spread(np.nan, np.nan, 0)
    sd = float(values.std(ddof=1)) if len(values) > 1 else np.nan
    return Spread(float(values.mean()), sd, len(values))


def paired(
    ours: Mapping[int, float], theirs: Mapping[int, float], confidence: float = 0.95
) -> Difference | None:
    """Return the mean of ours minus theirs over the seeds that both have.

    The interval is Student's t. None if they share no seed.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    differences = np.array([ours[seed] - theirs[seed] for seed in seeds], float)
    mean, count = float(differences.mean()), len(seeds)
    if count < 2:
        return Difference(mean, np.nan, np.nan, count)
    error = differences.std(ddof=1) / np.sqrt(count)
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1) * error)
    return Difference(mean, mean - half, mean + half, count)
