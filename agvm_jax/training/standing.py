"""Which of a run's evaluations is the best, and how long ago it was."""

import math
from collections.abc import Mapping

AVERAGE = "average_"  # in front of the numbers of the average of the weights


def best_of(results: Mapping[str, float], metric: str) -> float:
    """Returns the metric of the weights or of their average, whichever is better.

    nan where neither is a number.
    """
    values = results[metric], results.get(AVERAGE + metric, math.nan)
    return max((v for v in values if not math.isnan(v)), default=math.nan)


def is_best(value: float, former: Mapping[int, float]) -> bool:
    """Whether a value is the best so far; of equals the later, as checkpoints have it.

    Args:
      value: of the task's metric, the larger the better; nan is never the best.
      former: step -> value of the evaluations before.
    """
    return value >= max(_known(former).values(), default=-math.inf)


def evaluations_without_gain(values: Mapping[int, float]) -> int:
    """Returns how many evaluations there were after the first of the best ones.

    Args:
      values: step -> value. One that is nan is no gain.
    """
    known = _known(values)
    if not known:
        return len(values)
    best = max(known.values())
    first = min(step for step, value in known.items() if value == best)
    return sum(step > first for step in values)


def gains_no_more(values: Mapping[int, float], patience: int) -> bool:
    """Whether as many evaluations in a row brought no gain; never with patience 0."""
    return patience > 0 and evaluations_without_gain(values) >= patience


def _known(values: Mapping[int, float]) -> dict[int, float]:
    return {step: value for step, value in values.items() if not math.isnan(value)}
