"""What the heads of a detector read: the feature pyramid of a batch's images."""

import dataclasses

import jax

from .ops.roi_align import roi_align

# As torchvision pools: 2 x 2 samples a bin, cells as points.
SAMPLING_RATIO = 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Features:
    """The pyramid of a batch.

    Attributes:
      levels: one (B, h, w, C) array a level, finest first.
      image_size: (B, 2) int32, height and width of the images inside the padding.
      strides: pixels of the image that a cell of each level stands for, each way.
    """

    levels: list[jax.Array]
    image_size: jax.Array
    strides: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    @property
    def grids(self) -> list[tuple[int, int]]:
        """Rows and columns of each level."""
        return [level.shape[1:3] for level in self.levels]

    def pool(
        self, boxes: jax.Array, size: int, valid: jax.Array | None = None
    ) -> jax.Array:
        """Return what lies under boxes, by RoIAlign from the level that fits each.

        The coarsest level is for proposals alone (Lin et al. 2017, section 4.1): boxes
        are read from all but that one.

        Args:
          boxes: (B, R, 4), pixels of the input.
          size: P, bins along each side.
          valid: (B, R) bool; boxes that are not give zeros and cost nothing.

        Returns:
          (B, R, P, P, C).
        """
        return roi_align(
            self.levels[:-1],
            boxes,
            valid,
            strides=self.strides[:-1],
            output_size=size,
            sampling_ratio=SAMPLING_RATIO,
        )
