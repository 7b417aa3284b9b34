"""The largest batch that a device takes: a line through two compilations, tried once.

What a step needs grows with its images nearly as a line: what is held whatever the
batch, and so much for each image.
"""

import dataclasses
from collections.abc import Callable

from agvm_jax.compiling.programs import DoesNotFit

# How often a size that was refused is made a tenth smaller and tried again.
TRIES = 3
MOST = 1024  # images at once; nobody asks for more, and compilers take hours over it


@dataclasses.dataclass(frozen=True)
class Largest:
    """What was found.

    Attributes:
      points: (images at once, bytes) of the two compilations.
      fixed, per_image: bytes, of the line through them.
      room: bytes a device has for a step.
      fitted: images by the line.
      confirmed: images that were compiled and fit; 0: none of those that were tried.
      memory: bytes of that compilation.
      refused: images that were tried and did not fit.
    """

    points: tuple[tuple[int, float], tuple[int, float]]
    fixed: float
    per_image: float
    room: float
    fitted: int
    confirmed: int
    memory: float
    refused: tuple[int, ...]


def find_largest(
    points: tuple[tuple[int, float], tuple[int, float]],
    room: float,
    compiled: Callable[[int], float],
) -> Largest:
    """Returns the largest batch that a device takes at once.

    Args:
      points: (images, bytes) of two compilations, of different sizes.
      room: bytes that a step may take.
      compiled: images -> bytes of such a step; raises `DoesNotFit`.

    Raises:
      ValueError: the second of the two takes no more memory than the first.
    """
    (first, low), (second, high) = sorted(points)
    per_image = (high - low) / (second - first)
    if per_image <= 0:
        raise ValueError(
            f"{second} images take no more memory than {first}: {high:.0f} and"
            f" {low:.0f} bytes; no line leads from them to the largest batch."
        )
    fixed = low - per_image * first
    fitted = max(0, int((room - fixed) // per_image))
    size = min(fitted, MOST)
    known = {first: low, second: high}
    refused: list[int] = []
    for _ in range(TRIES):
        if size < 1:
            break
        try:
            memory = known[size] if size in known else compiled(size)
            if memory <= room:
                return Largest(
                    points, fixed, per_image, room, fitted, size, memory, tuple(refused)
                )
        except DoesNotFit:
            pass
        refused.append(size)
        size = min(size - 1, int(size * 0.9))
    return Largest(points, fixed, per_image, room, fitted, 0, 0.0, tuple(refused))
