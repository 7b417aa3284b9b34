"""Which images of a split an evaluator was given: the rules that all of them share.

Every image of the ground truth counts, as for a results file that is handed to
pycocotools, lvis or panopticapi: in one that was never added, because its file could
not be read for instance, nothing was found. An image is added once.
"""

from collections.abc import Collection, Iterable


def check_new(
    image_ids: Iterable[int], known: Collection[int], added: Collection[int]
) -> None:
    """Raise ValueError for an image that is unknown, or that was added before.

    Args:
      image_ids: about to be added; they must differ from each other too.
      known: the images of the ground truth.
      added: those that were added before.
    """
    seen = set(added)
    for image_id in image_ids:
        if image_id not in known:
            raise ValueError(
                f"image {image_id} is not in the ground truth: the evaluator was made "
                "for another data set or split"
            )
        if image_id in seen:
            raise ValueError(
                f"image {image_id} was added twice: reset the evaluator between "
                "evaluations, and give rows that only fill a batch image_id -1"
            )
        seen.add(image_id)


def missing_lines(known: Collection[int], added: Collection[int]) -> list[str]:
    """Lines that end a table: how many images were never added, [] for none."""
    missing = len(known) - len(added)
    if not missing:
        return []
    return ["", f"Images never evaluated, counted as empty: {missing}"]
