"""How large images are in evaluation: as in training, or as a protocol asks.

Published numbers belong to a size, COCO's mostly to 800 pixels on the shorter side and
1333 at most on the longer, whatever a model was trained at.
"""

from typing import Any, NamedTuple

SMALLEST = 32  # pixels, the stride of the backbones


class InputSize(NamedTuple):
    """What `data.pipeline.eval_batches` needs.

    Attributes:
      image_size: (height, width) of the padded input.
      data_config: section `data` of the config, with the resizing of the evaluation.
    """

    image_size: tuple[int, int]
    data_config: Any

    def __str__(self) -> str:
        height, width = self.image_size
        words = f"{height} x {width} px"
        if self.data_config.orientation_group and height != width:
            words += " or turned"
        if self.data_config.short_sides:
            words += f", shorter side {max(self.data_config.short_sides)}"
        if self.data_config.long_side:
            words += f", longer side at most {self.data_config.long_side}"
        return words


def evaluation_size(config: Any) -> InputSize:
    """Returns how large images are in evaluation.

    Args:
      config: the whole config. Each of `eval.image_size`, `eval.short_side` and
        `eval.long_side` counts where it is set, else `image_size`, the largest of
        `data.short_sides` and `data.long_side`.

    Raises:
      ValueError: one of them cannot be used; the message names it.
    """
    settings, data = config.eval, config.data.copy_and_resolve_references()
    size = tuple(settings.image_size)
    if not size:
        size = tuple(config.image_size)
    elif len(size) > 2 or min(size) < SMALLEST:
        raise ValueError(
            f"eval.image_size={size} is not a (height, width) of at least {SMALLEST}"
            " pixels, the stride of the backbone, nor () for that of training."
        )
    for key in ("short_side", "long_side"):
        if getattr(settings, key) < 0:
            raise ValueError(
                f"eval.{key}={getattr(settings, key)} must be a number of pixels, or 0"
                " for what training uses."
            )
    if settings.short_side:
        data.short_sides = (settings.short_side,)
    if settings.orient and not data.orientation_group:
        data.orientation_group = 1  # any: only training has groups
    if settings.long_side:
        data.long_side = settings.long_side
    return InputSize((size * 2 if len(size) == 1 else size), data)
