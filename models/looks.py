"""How images are looked at in evaluation: whole or in windows, mirrored, at sizes.

Names are those of mmsegmentation's `test_cfg` and of its multi-scale pipelines.
"""

import dataclasses

from .views import View

MODES = ("whole", "slide")
STRIDE = 4  # pixels of the input that a cell of a semantic head's logits stands for
Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class TestConfig:
    """How an image is looked at in evaluation.

    Attributes:
      mode: "whole", or "slide": in windows of `crop_size` at steps of `stride`, the
        last of which ends at the image's border; logits where windows overlap are
        averaged. For classes of pixels alone.
      crop_size: (height, width) of a window, pixels of the input.
      stride: (down, to the right) pixels from one window to the next.
      flip: whether the mirrored image is looked at as well.
      img_ratios: what the sides of the image are multiplied by; it is looked at once
        for each, and twice with `flip`. (): as it is.

    Raises:
      ValueError: an unknown mode; sizes that are not positive multiples of 4, which
        logits stand for; a stride that leaves gaps; or ratios that are out of range or
        stand there twice.
    """

    mode: str = "whole"
    crop_size: Pair = (512, 512)
    stride: Pair = (340, 340)
    flip: bool = False
    img_ratios: tuple[float, ...] = ()

    __test__ = False  # its name is mmsegmentation's, and pytest's for what it collects

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(
                f"model.test_cfg.mode={self.mode!r} is not known; choose one of"
                f" {', '.join(MODES)}"
            )
        for name in ("crop_size", "stride"):
            value = tuple(getattr(self, name))
            object.__setattr__(self, name, value)
            if len(value) != 2 or any(n < STRIDE or n % STRIDE for n in value):
                raise ValueError(
                    f"model.test_cfg.{name}={value} must be two positive multiples of"
                    f" {STRIDE} pixels, the stride of the logits"
                )
        if any(s > c for s, c in zip(self.stride, self.crop_size, strict=True)):
            raise ValueError(
                f"model.test_cfg.stride={self.stride} leaves pixels between windows of"
                f" {self.crop_size}: it may not be larger than crop_size"
            )
        ratios = tuple(float(ratio) for ratio in self.img_ratios)
        object.__setattr__(self, "img_ratios", ratios)
        usable = all(0.1 <= ratio <= 10.0 for ratio in ratios)
        if len(set(ratios)) < len(ratios) or not usable:
            raise ValueError(
                f"model.test_cfg.img_ratios={ratios} must be different numbers from 0.1"
                " to 10, what the image's sides are multiplied by"
            )

    @property
    def sizes(self) -> tuple[View, ...]:
        """The sizes at which an image is looked at."""
        return tuple(View(ratio) for ratio in self.img_ratios or (1.0,))

    @property
    def views(self) -> tuple[View, ...]:
        """The sizes, each followed by its mirror image if `flip`."""
        ways = (False, True) if self.flip else (False,)
        return tuple(View(one.ratio, flip) for one in self.sizes for flip in ways)

    @property
    def windows(self) -> tuple:
        """The settings that no detector of boxes has."""
        return self.mode, self.crop_size, self.stride
