"""Which of a run's evaluations is the best, and how long ago it was."""

import math
from collections.abc import Mapping


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


def _known(values: Mapping[int, float]) -> dict[int, float]:
    return {step: value for step, value in values.items() if not math.isnan(value)}
