"""What is sampled for one image: its size, placement and colours, from one rng."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from agvm_jax.data.augment.color import ColorJitter, Colors
from agvm_jax.data.augment.cropping import Cropping, centers_inside
from agvm_jax.data.augment.decode import Size
from agvm_jax.data.augment.placement import Placement


@dataclasses.dataclass(frozen=True)
class Resizing:
    """The rule by which images are resized.

    Attributes:
      short_sides: pixels that the shorter side gets; training samples one of them each
        time, evaluation takes the largest. (): as large as the frame allows.
      long_side: pixels that the longer side may have at most, which then decides; 0:
        as many as the frame has.
      fits: whether an image may not become larger than the frame. Without, its sides
        are what the two above say, and what reaches over the frame is cut off.
    """

    short_sides: tuple[int, ...] = ()
    long_side: int = 0
    fits: bool = True

    def sampled(self, u: float) -> int:
        """The shorter side for a uniform number u in [0, 1); 0: no such rule."""
        if not self.short_sides:
            return 0
        return self.short_sides[int(u * len(self.short_sides))]

    def still(self) -> int:
        """The shorter side in evaluation; 0: no such rule."""
        return max(self.short_sides, default=0)

    def target(self, size: Size, frame: Size, short: int, scale: float = 1.0) -> Size:
        """The size that an image of `size` gets.

        Detectron's rule (Girshick et al. 2018, `SCALES` and `MAX_SIZE`): the shorter
        side becomes `short` pixels, unless the longer one passed its limit.

        Args:
          frame: (H, W); if the rule is to fit, nothing becomes larger than it without
            `scale`.
          short: what `sampled` or `still` said.
          scale: multiplies the result, which may then be larger than the frame.

        >>> Resizing((800,), 1333).target((480, 640), (800, 1344), 800)
        (800, 1067)
        >>> Resizing((800,), 1333).target((200, 640), (800, 1344), 800)
        (417, 1333)
        >>> Resizing((512,), 2048, fits=False).target((600, 1200), (512, 512), 512)
        (512, 1024)
        """
        limits = []
        if short:
            limits.append(short / min(size))
        if self.long_side:
            limits.append(self.long_side / max(size))
        if self.fits or not limits:
            limits += [f / s for f, s in zip(frame, size, strict=True)]
        factor = min(limits) * scale
        # Rounding may not carry the longer side over the frame when scale is 1.
        height, width = (max(1, round(side * factor)) for side in size)
        return (height, width)


WINDOW_TRIALS = 10  # places that are tried for `cat_max_ratio`, mmsegmentation's
_FILL = Resizing()  # as large as the frame allows
_PLAIN = ColorJitter()  # leaves colours alone
_NO_BOXES = np.zeros((0, 4), np.float32)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What training may do to an image: the keys of config.data about it.

    Attributes:
      flip: probability of a horizontal flip.
      scale_range: factors sampled evenly beside what `resizing` says. What then reaches
        over the frame is cut off at random, what falls short is padded: (0.1, 2.0) is
        the large-scale jitter of Ghiasi et al. 2021.
      resizing, cropping, color: the rules named so.
      cat_max_ratio: largest share of the labelled pixels in the frame that one class
        may have: other places are tried for the window, as in mmsegmentation.
      copy_paste: probability that another image's objects are pasted (`pasting`).
    """

    flip: float = 0.0
    scale_range: tuple[float, float] = (1.0, 1.0)
    resizing: Resizing = Resizing()
    cropping: Cropping = Cropping()
    color: ColorJitter = ColorJitter()
    cat_max_ratio: float = 1.0
    copy_paste: float = 0.0

    @classmethod
    def of(cls, config: Any) -> "Augmentation":
        """From section `data` of a config."""
        return cls(
            flip=config.flip,
            scale_range=tuple(config.scale_range),
            cat_max_ratio=config.cat_max_ratio,
            copy_paste=config.copy_paste,
            resizing=Resizing(
                tuple(config.short_sides), config.long_side, fits=config.crop != "frame"
            ),
            cropping=Cropping(
                config.crop, tuple(config.crop_range), config.crop_probability
            ),
            color=ColorJitter(
                config.brightness, config.contrast, config.saturation, config.hue
            ),
        )


@dataclasses.dataclass(frozen=True)
class Transform:
    """Where an image goes, and what becomes of its objects and colours.

    Attributes:
      placement: for pixels, boxes, masks and labels.
      colors: None: unchanged.
      centers: part of the image in which an object's centre must lie for it to stay;
        None: any object with some area left stays.
      donor: samples the image whose objects are pasted, and which; None: none are.
    """

    placement: Placement
    colors: Colors | None = None
    centers: tuple[int, int, int, int] | None = None
    donor: np.random.Generator | None = None

    def keeps(self, boxes: np.ndarray, crowd: np.ndarray) -> np.ndarray:
        """Which objects may stay: (n,) bool. A crowd region always may, since it only
        says where nothing is to be learnt."""
        if self.centers is None:
            return np.ones(len(boxes), bool)
        return centers_inside(boxes, self.centers) | crowd


def still_placement(size: Size, frame: Size, resizing: Resizing = _FILL) -> Placement:
    """The whole image, not mirrored, as large as evaluation has it."""
    resizing = dataclasses.replace(resizing, fits=True)
    resized = resizing.target(size, frame, resizing.still())
    return Placement(size, resized, (0, 0), resized, flip=False)


def sample(
    rng: np.random.Generator,
    size: Size,
    frame: Size,
    augmentation: Augmentation,
    boxes: np.ndarray = _NO_BOXES,
    labels: np.ndarray | None = None,
) -> Transform:
    """Sample what happens to one image.

    Takes the same four numbers from `rng`: scale, window and flip come from them, and
    all else from generators that they seed, one for each purpose. So no key of the
    config changes what another samples.

    Args:
      size: of the image.
      frame: (H, W).
      boxes: (n, 4) of its objects without crowd regions, for crops that look at them.
      labels: (h, w) int of its pixels, negative for void, for `cat_max_ratio`.
    """
    four = rng.random(4)
    u_scale, u_y, u_x, u_flip = four.tolist()
    low, high = augmentation.scale_range
    scale = low + (high - low) * u_scale
    short = 0
    if augmentation.resizing.short_sides:
        short = augmentation.resizing.sampled(_aside(four, 0).random())
    part, centers = (0, 0, *size), None
    if augmentation.cropping.kind in ("size", "iou"):
        part = augmentation.cropping.sample(_aside(four, 1), size, boxes)
        if augmentation.cropping.kind == "iou":
            centers = part
    colors = None
    if augmentation.color != _PLAIN:
        colors = augmentation.color.sample(_aside(four, 2))

    # The whole image is resized by the chosen part's scale; the window is of that part.
    target = augmentation.resizing.target(part[2:], frame, short, scale)
    resized, starts, extents, window = [], [], [], []
    for axis in range(2):
        whole = max(1, round(size[axis] * target[axis] / part[2 + axis]))
        start = min(round(part[axis] * whole / size[axis]), whole - 1)
        extent = min(target[axis], whole - start)
        resized.append(whole)
        starts.append(start)
        extents.append(extent)
        window.append(min(extent, frame[axis]))

    def placed(shares: Sequence[float]) -> Placement:
        """With the window at these shares of the way that it can move."""
        corner = (
            start + int(share * (extent - inside + 1))
            for start, share, extent, inside in zip(
                starts, shares, extents, window, strict=True
            )
        )
        flip = bool(u_flip < augmentation.flip)
        return Placement(size, tuple(resized), tuple(corner), tuple(window), flip)

    placement = placed((u_y, u_x))
    if labels is not None and augmentation.cat_max_ratio < 1:
        others = _aside(four, 3).random((WINDOW_TRIALS, 2))
        for shares in others.tolist():
            if _is_mixed(labels, placement, augmentation.cat_max_ratio):
                break
            placement = placed(shares)
    donor = _aside(four, 4)
    if donor.random() >= augmentation.copy_paste:
        donor = None
    return Transform(placement, colors, centers, donor)


def _is_mixed(labels: np.ndarray, placement: Placement, most: float) -> bool:
    """Whether a window shows two classes, and none on more than a share of the labels.

    Args:
      labels: (h, w) of the whole image, negative for void.
      placement: has the window.
      most: cat_max_ratio.
    """
    rows, columns = (
        slice(int(corner * old / new), max(1, round((corner + inside) * old / new)))
        for corner, inside, old, new in zip(
            placement.corner,
            placement.window,
            placement.size,
            placement.resized,
            strict=True,
        )
    )
    seen = labels[rows, columns]
    counts = np.bincount(seen[seen >= 0])
    return np.count_nonzero(counts) > 1 and counts.max() < most * counts.sum()


def _aside(four: np.ndarray, purpose: int) -> np.random.Generator:
    """A generator for one purpose, seeded by numbers already sampled."""
    return np.random.default_rng([purpose, *four.view(np.uint32).tolist()])


def ranges_of_augmentation(config: Any) -> tuple[tuple[bool, str, str], ...]:
    """What the keys may be: (whether it is so, key, rule) of each; config is `data`."""
    low, high = config.scale_range
    least, most = config.crop_range
    return (
        (0 < low <= high, "scale_range", "needs 0 < lowest <= highest"),
        (
            # One larger than the frame is not refused: the frame then decides, so
            # that a recipe for 800 px can be tried at 64.
            all(side > 0 for side in config.short_sides),
            "short_sides",
            "must be 1 or more, each",
        ),
        (
            config.crop in ("none", "size", "iou", "frame"),
            "crop",
            "must be none, size, iou or frame",
        ),
        (
            config.crop != "frame" or config.short_sides or config.long_side,
            "crop",
            "needs short_sides or long_side, which then say how large images are",
        ),
        (
            0 < config.cat_max_ratio <= 1,
            "cat_max_ratio",
            "must lie above 0 and be at most 1",
        ),
        (
            config.cat_max_ratio == 1 or config.semantic != "none",
            "cat_max_ratio",
            "looks at labels: set data.semantic to all or stuff, or it to 1",
        ),
        (0 < least <= most <= 1, "crop_range", "needs 0 < smallest <= largest <= 1"),
        *(
            (0 <= getattr(config, key) <= 1, key, "must lie in 0 .. 1")
            for key in ("flip", "crop_probability", "brightness", "contrast")
        ),
        (0 <= config.saturation <= 1, "saturation", "must lie in 0 .. 1"),
        (0 <= config.hue <= 0.5, "hue", "must lie in 0 .. 0.5, half the circle"),
        (
            0 <= config.copy_paste <= 1 and (config.mask_size or not config.copy_paste),
            "copy_paste",
            "must lie in 0 .. 1, and above 0 needs mask_size: it pastes by masks",
        ),
    )
