"""Which images a report shows: some of the best and some of the worst."""

from collections.abc import Sequence


def best_and_worst(ranking: Sequence[int], most: int) -> dict[str, list[int]]:
    """Return "best", the best image first, and "worst", the worst first.

    No image is in both: of a few images the better half are the best.

    Args:
      ranking: image ids from best to worst.
      most: how many images each may have.
    """
    best = list(ranking[: min(most, (len(ranking) + 1) // 2)])
    return {"best": best, "worst": list(ranking[len(best) :][::-1][:most])}
