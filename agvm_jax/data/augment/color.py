"""Photometric distortion: brightness, contrast, saturation and hue of a picture."""

import dataclasses

import cv2
import numpy as np


@dataclasses.dataclass(frozen=True)
class Colors:
    """What is done to a picture's colours; it moves nothing.

    Attributes:
      brightness: added to every value, on the scale 0 to 255.
      contrast: multiplies every value.
      saturation: multiplies the S of HSV.
      hue: added to the H of HSV, a share of the colour circle.
      contrast_last: whether contrast comes after saturation and hue, not before.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    contrast_last: bool = False

    def apply(self, image: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 RGB -> the same, changed; values are clipped to 0..255."""
        values = np.arange(256) + self.brightness
        if not self.contrast_last:
            # Not rounded in between: one table does both.
            image = _mapped(image, values.clip(0, 255) * self.contrast)
        else:
            image = _mapped(image, values)
        if self.saturation != 1.0 or self.hue != 0.0:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
            levels = np.arange(256)
            # OpenCV writes H in 256ths of the circle and reads it in 255ths.
            hue = (levels + self.hue * 256) % 256 * (255 / 256)
            tables = np.stack(
                [
                    np.rint(hue),
                    np.rint(levels * self.saturation).clip(0, 255),
                    levels,
                ],
                axis=-1,
            )
            hsv = cv2.LUT(hsv, tables.astype(np.uint8)[None])
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
        if self.contrast_last:
            image = _mapped(image, np.arange(256) * self.contrast)
        return image


def _mapped(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Value v of the image becomes values[v], rounded and clipped."""
    table = np.rint(values).clip(0, 255).astype(np.uint8)
    if np.array_equal(table, np.arange(256)):
        return image
    return cv2.LUT(image, table)


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Ranges that `Colors` are drawn from; 0 leaves a property alone.

    As in SSD's released code: each property changes with probability 1/2, and a coin
    says whether contrast comes before or after saturation and hue. SSD's ranges are
    brightness 0.125, contrast 0.5, saturation 0.5 and hue 0.05.

    Attributes:
      brightness: largest shift, as a share of 255.
      contrast, saturation: factors are 1 minus to 1 plus this.
      hue: largest turn, as a share of the colour circle.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def draw(self, rng: np.random.Generator) -> Colors:
        """Always draws the same nine numbers, so that no range changes another."""
        on = rng.random(4) < 0.5
        shift = rng.uniform(-1, 1, 4) * on
        return Colors(
            brightness=255 * self.brightness * shift[0],
            contrast=1 + self.contrast * shift[1],
            saturation=1 + self.saturation * shift[2],
            hue=self.hue * shift[3],
            contrast_last=bool(rng.random() < 0.5),
        )
