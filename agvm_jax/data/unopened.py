"""What a model has to know of a data set, without preparing it: how many classes.

For whoever wants a training step but no training. Sets that are the same everywhere
need not even be there.
"""

import dataclasses
import pathlib
from typing import Any

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.dataset import AUTO, FORMATS, find_format


@dataclasses.dataclass(frozen=True)
class Counts:
    """How much there is of a training split.

    Attributes:
      images: with `data.filter_empty` those that have an object.
      classes: of boxes.
      labels: that pixels may have; 0 where they are not learned.
      reason: how that is known.
    """

    images: int
    classes: int
    labels: int
    reason: str


# Format -> images, images with an object, classes with boxes, classes without.
PUBLISHED = {
    "coco": (118_287, 117_266, 80, 53),
    "lvis": (100_170, 99_388, 1203, 0),
    "ade20k": (20_210, 20_210, 0, 150),
}


def count(data_config: Any) -> Counts:
    """Counts what the config section `data` names, from its annotations alone.

    COCO, LVIS and ADE20K without a root are taken as published.

    Raises:
      DataError: there is no such data set; one sentence says what to do.
    """
    name = data_config.name
    if name in PUBLISHED and not data_config.root:
        images, with_objects, classes, stuff = PUBLISHED[name]
        chosen = with_objects if data_config.filter_empty else images
        reason = f"{name} as published; it is not read"
    else:
        if name == AUTO or (not name and data_config.root):
            name, _ = find_format(data_config)
        name = name or "shapes"
        if name not in FORMATS:
            raise DataError(
                f"config.data.name is {name!r}; there are {', '.join(sorted(FORMATS))}."
            )
        annotations = FORMATS[name].origins(data_config)("train", None).annotations()
        found = annotations.object_counts()
        chosen = int((found > 0).sum()) if data_config.filter_empty else len(found)
        classes, stuff = len(annotations.class_names), len(annotations.stuff_names)
        where = pathlib.Path(data_config.root) if data_config.root else "generated"
        reason = f"the annotations of {name} ({where})"
    things = {"none": -stuff, "stuff": 1}.get(data_config.semantic, classes)
    return Counts(chosen, classes, things + stuff, f"{chosen} images: {reason}")
