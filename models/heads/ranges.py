"""Checks of a head's settings, by the names that they have in a config."""

from collections.abc import Mapping, Sequence


def check_ranges(
    section: str,
    *,
    shares: Mapping[str, float] | None = None,
    counts: Mapping[str, int] | None = None,
    pairs: Mapping[str, Sequence[int]] | None = None,
    positive: Mapping[str, float] | None = None,
) -> None:
    """Check the settings of one head.

    Args:
      section: where they stand in a config, "model.rpn".
      shares: thresholds and the like, in [0, 1].
      counts: at least 1.
      pairs: two counts, for training and for evaluation.
      positive: above 0, such as the weight of a loss.

    Raises:
      ValueError: one is out of range; the message names its key.

    >>> check_ranges("model.rpn", shares={"nms_threshold": 1.5})
    Traceback (most recent call last):
    ValueError: model.rpn.nms_threshold is 1.5: it must be in [0, 1]
    """
    for name, value in (shares or {}).items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{section}.{name} is {value}: it must be in [0, 1]")
    for name, value in (counts or {}).items():
        if not value >= 1:
            raise ValueError(f"{section}.{name} is {value}: it must be at least 1")
    for name, value in (positive or {}).items():
        if not value > 0:
            raise ValueError(f"{section}.{name} is {value}: it must be positive")
    for name, values in (pairs or {}).items():
        if len(values) != 2 or not min(values) >= 1:
            raise ValueError(
                f"{section}.{name} is {tuple(values)}: two numbers of at least 1 are "
                "needed, for training and for evaluation"
            )
