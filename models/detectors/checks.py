"""Checks of a detector's settings, made before it is built."""

from collections.abc import Mapping, Sequence


def check_anchors(
    sizes: Sequence[float],
    scales: int,
    ratios: Sequence[float],
    *,
    levels: Sequence[str],
    head: str,
    num_anchors: int,
) -> None:
    """Check that the anchors fit the pyramid and what reads it.

    Args:
      sizes, scales, ratios: a detector's `anchor_sizes`, `anchor_scales` and
        `anchor_ratios`.
      levels: names of the pyramid's levels.
      head: what reads the pyramid, as the message calls it.
      num_anchors: how many anchors a place that was built for.

    Raises:
      ValueError: there is not one size a level, or not `num_anchors` anchors a place.
    """
    if len(sizes) != len(levels):
        raise ValueError(
            f"anchor_sizes has {len(sizes)} entries, but the pyramid has the levels "
            f"{', '.join(levels)}: give one size a level"
        )
    if num_anchors != scales * len(ratios):
        raise ValueError(
            f"{head} was built for {num_anchors} anchors a place, but anchor_scales "
            f"{scales} x {len(ratios)} anchor_ratios are {scales * len(ratios)}"
        )


def check_ranges(thresholds: Mapping[str, float], counts: Mapping[str, int]) -> None:
    """Check that thresholds are in [0, 1] and counts at least 1, by their names.

    Raises:
      ValueError: one is not, and is named.
    """
    for name, value in thresholds.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} is {value}: it must be in [0, 1]")
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} is {value}: it must be at least 1")
