"""What is known about which image: the federated ground truth of LVIS.

Gupta, Dollar and Girshick, "LVIS: A Dataset for Large Vocabulary Instance
Segmentation", CVPR 2019, section 3: nobody looked for all categories in every image. An
image lists the categories that are known not to be in it (`neg_category_ids`), and
those of which only some objects are annotated (`not_exhaustive_category_ids`).
Detections of a category that is neither annotated nor known to be absent do not count;
of one that is not annotated exhaustively, those that match nothing do not.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

IMAGE_KEYS = ("neg_category_ids", "not_exhaustive_category_ids")
# Rare, common, frequent: LVIS v1 has up to 10, up to 100, or more training images of a
# category.
FREQUENCIES = ("r", "c", "f")


@dataclasses.dataclass(frozen=True)
class Federated:
    """Which categories are judged in which image.

    Attributes:
      absent: image id -> ids of the categories that are known not to be there.
      not_exhaustive: image id -> ids of the categories with more objects than are
        annotated.
      frequency: category id -> "r", "c" or "f".
    """

    absent: dict[int, frozenset[int]]
    not_exhaustive: dict[int, frozenset[int]]
    frequency: dict[int, str]

    def extend(
        self, images: Sequence[dict[str, Any]], categories: Sequence[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return COCO's images and categories with what LVIS adds, for hotcoco."""
        absent, open_ = IMAGE_KEYS
        more_images = [
            image
            | {
                absent: sorted(self.absent[image["id"]]),
                open_: sorted(self.not_exhaustive[image["id"]]),
            }
            for image in images
        ]
        return more_images, [
            category | {"frequency": self.frequency[category["id"]]}
            for category in categories
        ]

    def unknown(
        self, image_ids: Iterable[int], category_ids: Iterable[int], present: set
    ) -> Bool[np.ndarray, " N"]:
        """Return (N,) bool: detections of which their image says nothing.

        Args:
          image_ids, category_ids: of N detections.
          present: pairs of image and category id that are annotated.
        """
        pairs = zip(image_ids, category_ids, strict=True)
        return np.array(
            [c not in self.absent[i] and (i, c) not in present for i, c in pairs], bool
        )

    def columns(self, category_ids: Sequence[int]) -> dict[str, list[int]]:
        """Return "r", "c", "f" -> places of their categories by rising category id."""
        names = [self.frequency[c] for c in sorted(category_ids)]
        return {
            one: [k for k, name in enumerate(names) if name == one]
            for one in FREQUENCIES
        }


def is_federated(images: Iterable[Mapping[str, Any]]) -> bool:
    """Whether an image of a COCO dictionary says what LVIS' images say."""
    return any(key in image for image in images for key in IMAGE_KEYS)


def read_federated(
    dictionary: Mapping[str, Any], category_ids: Sequence[int]
) -> Federated:
    """Read what LVIS adds to COCO's images and categories.

    Raises:
      ValueError: a category has no `frequency`, or an image lacks a key.
    """
    frequency = {}
    for category in dictionary["categories"]:
        one = frequency[category["id"]] = category.get("frequency")
        if category["id"] in category_ids and one not in FREQUENCIES:
            raise ValueError(
                f"the ground truth's category {category['id']} has the frequency "
                f"{one!r}, not 'r', 'c' or 'f', which LVIS' APr, APc and APf are about"
            )
    lists: list[dict[int, frozenset[int]]] = [{}, {}]
    for image in dictionary["images"]:
        for key, found in zip(IMAGE_KEYS, lists, strict=True):
            if key not in image:
                raise ValueError(
                    f"the ground truth's image {image['id']} has no {key!r}, which "
                    "LVIS needs in every image"
                )
            found[image["id"]] = frozenset(image[key])
    return Federated(*lists, frequency)
