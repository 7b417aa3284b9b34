"""What an augmentation draws: a placement and colours for one picture, from one rng."""

import dataclasses
from typing import Any

import numpy as np

from agvm_jax.data.augment.color import ColorJitter, Colors
from agvm_jax.data.augment.cropping import Cropping, centers_inside
from agvm_jax.data.augment.decode import Size
from agvm_jax.data.augment.placement import Placement
from agvm_jax.data.augment.resizing import Resizing

_FILL = Resizing()  # as large as the frame allows
_NO_BOXES = np.zeros((0, 4), np.float32)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What training may do to a picture: the keys of config.data about it.

    Attributes:
      flip: probability of a horizontal flip.
      scale_range: factors drawn evenly beside what `resizing` says. What then reaches
        over the frame is cut off at random, what falls short is padded: (0.1, 2.0) is
        the large-scale jitter of Ghiasi et al. 2021.
      resizing, cropping, color: the rules named so.
    """

    flip: float = 0.0
    scale_range: tuple[float, float] = (1.0, 1.0)
    resizing: Resizing = Resizing()
    cropping: Cropping = Cropping()
    color: ColorJitter = ColorJitter()

    @classmethod
    def of(cls, config: Any) -> "Augmentation":
        """From section `data` of a config."""
        return cls(
            flip=config.flip,
            scale_range=tuple(config.scale_range),
            resizing=Resizing(tuple(config.short_sides), config.long_side),
            cropping=Cropping(
                config.crop, tuple(config.crop_range), config.crop_probability
            ),
            color=ColorJitter(
                config.brightness, config.contrast, config.saturation, config.hue
            ),
        )


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One draw: where the picture goes, and what becomes of its objects and colours.

    Attributes:
      placement: for pixels, boxes, masks and labels.
      colors: None: unchanged.
      centers: part of the picture in which an object's centre must lie for it to stay;
        None: any object with some area left stays.
    """

    placement: Placement
    colors: Colors | None = None
    centers: tuple[int, int, int, int] | None = None

    def keeps(self, boxes: np.ndarray, crowd: np.ndarray) -> np.ndarray:
        """Which objects may stay: (n,) bool. A crowd region always may, since it only
        says where nothing is to be learnt."""
        if self.centers is None:
            return np.ones(len(boxes), bool)
        return centers_inside(boxes, self.centers) | crowd


def still_placement(size: Size, frame: Size, resizing: Resizing = _FILL) -> Placement:
    """The whole picture, not mirrored, as large as evaluation has it."""
    resized = resizing.target(size, frame, resizing.still())
    return Placement(size, resized, (0, 0), resized, flip=False)


def draw(
    rng: np.random.Generator,
    size: Size,
    frame: Size,
    augmentation: Augmentation,
    boxes: np.ndarray = _NO_BOXES,
) -> Drawn:
    """Draw what happens to one picture.

    Takes the same four numbers from `rng`, whatever is asked for: scale, window and
    flip come from them, and everything else from generators that they seed, one for
    each purpose. So no key of the config changes what another draws.

    Args:
      size: of the picture.
      frame: (H, W).
      boxes: (n, 4) of its objects without crowd regions, for crops that look at them.
    """
    four = rng.random(4)
    u_scale, u_y, u_x, u_flip = four.tolist()
    low, high = augmentation.scale_range
    scale = low + (high - low) * u_scale
    short = 0
    if augmentation.resizing.short_sides:
        short = augmentation.resizing.drawn(_aside(four, 0).random())
    part, centers = (0, 0, *size), None
    if augmentation.cropping.kind != "none":
        part = augmentation.cropping.draw(_aside(four, 1), size, boxes)
        if augmentation.cropping.kind == "iou":
            centers = part
    colors = None
    if augmentation.color:
        colors = augmentation.color.draw(_aside(four, 2))

    # The whole picture is thought resized by the scale of the chosen part; of that the
    # window is the part, or as much of it as the frame holds.
    target = augmentation.resizing.target(part[2:], frame, short, scale)
    resized, corner, window = [], [], []
    for axis, u in enumerate((u_y, u_x)):
        whole = max(1, round(size[axis] * target[axis] / part[2 + axis]))
        start = min(round(part[axis] * whole / size[axis]), whole - 1)
        extent = min(target[axis], whole - start)
        inside = min(extent, frame[axis])
        resized.append(whole)
        window.append(inside)
        corner.append(start + int(u * (extent - inside + 1)))
    placement = Placement(
        size,
        tuple(resized),
        tuple(corner),
        tuple(window),
        bool(u_flip < augmentation.flip),
    )
    return Drawn(placement, colors, centers)


def _aside(four: np.ndarray, purpose: int) -> np.random.Generator:
    """A generator of its own for one purpose, seeded by numbers already drawn."""
    return np.random.default_rng([purpose, *four.view(np.uint32).tolist()])
