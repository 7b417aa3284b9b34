"""Anchors: the boxes of fixed sizes and shapes that a pyramid's heads correct.

Ratios are height / width. An anchor's place in the flat order is (row, column, ratio,
size), slowest first; so the heads' outputs, reshaped from (B, H, W, A * C) to
(B, H * W * A, C), line up with it. Sizes and rounding are torchvision's, so that its
weights can be used; places are detectron2's, one stride from cell to cell whatever the
size of the image. (torchvision takes the image's size over the map's, rounded down, as
the stride: with 800 rows P7's last anchors then stand at 684 and what they are computed
from at 768. On sides that all strides divide both are the same.)
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from .arrays import Array


def octave_sizes(sizes: Sequence[float], scales: int) -> tuple[tuple[float, ...], ...]:
    """Return each level's anchor sizes: `scales` steps from its size up to the next.

    The steps are ``size * 2 ** (i / scales)``, cut to whole pixels but for the first.

    >>> octave_sizes((32, 64), 3)
    ((32, 40, 50), (64, 80, 101))
    """
    if scales < 1:
        raise ValueError(f"model.anchors.scales is {scales}: a level needs at least 1")
    return tuple(
        (size, *(int(size * 2.0 ** (step / scales)) for step in range(1, scales)))
        for size in sizes
    )


def cell_anchors(
    sizes: Sequence[float], ratios: Sequence[float]
) -> Float32[np.ndarray, "{len(sizes)*len(ratios)} 4"]:
    """Return the anchors of one cell, centred on 0, corners rounded to whole pixels.

    Args:
      sizes: S square roots of areas, in pixels.
      ratios: R values of height / width.

    Returns:
      (R * S, 4) float32.

    >>> cell_anchors((32,), (0.5, 1.0)).tolist()
    [[-23.0, -11.0, 23.0, 11.0], [-16.0, -16.0, 16.0, 16.0]]
    """
    if not sizes or min(sizes) <= 0 or not ratios or min(ratios) <= 0:
        raise ValueError(
            f"anchor sizes {tuple(sizes)} and ratios {tuple(ratios)} must be positive "
            "and not empty"
        )
    root = np.sqrt(np.asarray(ratios, np.float32))[:, None]
    size = np.asarray(sizes, np.float32)[None, :]
    heights = (root * size).reshape(-1)
    widths = (1.0 / root * size).reshape(-1)
    return np.round(np.stack([-widths, -heights, widths, heights], axis=1) / 2)


def grid_anchors(
    cells: Float32[np.ndarray, "A 4"], grid: tuple[int, int], stride: int
) -> Float32[Array, "{grid[0]}*{grid[1]}*A 4"]:
    """Return the anchors of one feature map.

    Those of cell (i, j) are centred on pixel (i * stride, j * stride), the middle of
    what the cell is computed from; the first is the image's corner.

    Args:
      cells: (A, 4), see `cell_anchors`.
      grid: height and width of the feature map.
      stride: pixels from one cell to the next.

    Returns:
      (grid height * grid width * A, 4) float32.
    """
    y = jnp.arange(grid[0], dtype=jnp.float32) * stride
    x = jnp.arange(grid[1], dtype=jnp.float32) * stride
    y, x = jnp.meshgrid(y, x, indexing="ij")
    shifts = jnp.stack([x, y, x, y], axis=-1)[:, :, None, :]  # (H, W, 1, 4)
    return (shifts + jnp.asarray(cells)[None, None]).reshape(-1, 4)


def pyramid_anchors(
    cells: Sequence[Float32[np.ndarray, "A 4"]],
    grids: Sequence[tuple[int, int]],
    strides: Sequence[int],
) -> list[Float32[Array, "_ 4"]]:
    """Return the anchors of each level of a pyramid, finest first.

    Args:
      cells: one (A, 4) array a level.
      grids: height and width of each level's feature map.
      strides: pixels that a cell of each level stands for.

    Returns:
      One (H * W * A, 4) float32 array a level.

    Raises:
      ValueError: when the pyramid has more or fewer levels than there are sizes.
    """
    if len(cells) != len(grids):
        raise ValueError(
            f"anchor sizes for {len(cells)} levels, but the pyramid has {len(grids)}: "
            "give one size a level"
        )
    return [
        grid_anchors(cell, grid, stride)
        for cell, grid, stride in zip(cells, grids, strides, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class Anchors:
    """The anchors of a pyramid: the section `model.anchors` of a config.

    Attributes:
      sizes: pixels, one for each level of the pyramid, finest first.
      scales: sizes a level, in equal steps up to the next level's (`octave_sizes`).
      ratios: height / width.

    Raises:
      ValueError: a size, a ratio or the number of scales is not positive.

    >>> anchors = Anchors(sizes=(8, 16), scales=1, ratios=(0.5, 1.0))
    >>> anchors.per_place
    2
    >>> [level.shape for level in anchors.of_pyramid([(4, 6), (2, 3)], (8, 16))]
    [(48, 4), (12, 4)]
    """

    sizes: Sequence[float]
    scales: int = 1
    ratios: Sequence[float] = (0.5, 1.0, 2.0)

    def __post_init__(self):
        # Tuples, so that a module that holds anchors can be told from another.
        object.__setattr__(self, "sizes", tuple(self.sizes))
        object.__setattr__(self, "ratios", tuple(self.ratios))
        for key, values in {
            "sizes": self.sizes,
            "scales": (self.scales,),
            "ratios": self.ratios,
        }.items():
            if not values or not min(values) > 0:
                raise ValueError(
                    f"model.anchors.{key} is {getattr(self, key)}: numbers above 0 are "
                    "needed"
                )

    @property
    def per_place(self) -> int:
        """A, how many anchors stand at each place."""
        return self.scales * len(self.ratios)

    def check_levels(self, levels: Sequence[str]) -> None:
        """Check that there is one size for each of the pyramid's levels, by name.

        Raises:
          ValueError: there are more or fewer.
        """
        if len(self.sizes) != len(levels):
            raise ValueError(
                f"model.anchors.sizes has {len(self.sizes)} entries, but the pyramid "
                f"has the levels {', '.join(levels)}: give one size a level"
            )

    def of_pyramid(
        self, grids: Sequence[tuple[int, int]], strides: Sequence[int]
    ) -> list[Float32[Array, "_ 4"]]:
        """Return one (H * W * A, 4) float32 array a level, see `pyramid_anchors`."""
        sizes = octave_sizes(self.sizes, self.scales)
        cells = [cell_anchors(level, self.ratios) for level in sizes]
        return pyramid_anchors(cells, grids, strides)
