"""Images of a test split: a JSON file lists them, and nobody has their annotations."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.inference.card import ModelCard

# Where COCO has them, below the data set's root.
COCO_LIST, COCO_IMAGES = "annotations/image_info_test-dev2017.json", "test2017"


def find_list(
    data_config: Any, listed: str | None, images: str | None
) -> tuple[Path, Path]:
    """Returns the file that lists the test images, and the folder that they lie in.

    Args:
      data_config: section `data` of the config; for `coco` its root says both.
      listed, images: what the command line says, or None.

    Raises:
      DataError: one of them is not known or not there.
    """
    root = Path(data_config.root).expanduser()
    if data_config.name == "coco":
        listed = listed or str(root / COCO_LIST)
        images = images or str(root / COCO_IMAGES)
    if not listed or not images:
        raise DataError(
            "name the test images: --list=FILE.json, with `images` (id, file_name) as"
            " COCO's image_info_test-dev2017.json, and --images=FOLDER."
        )
    paths = Path(listed).expanduser(), Path(images).expanduser()
    for path in paths:
        if not path.exists():
            raise DataError(f"there is no {path}, where the test images should be.")
    return paths


def read_list(path: Path) -> list[dict[str, Any]]:
    """Returns the images that a JSON file lists: id and file_name.

    Raises:
      DataError: it cannot be read, lists none, or has annotations.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        images = [
            {"id": int(one["id"]), "file_name": str(one["file_name"])}
            for one in content["images"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is no JSON file with `images` of `id` and `file_name`: {error!r}"
        ) from error
    if not images:
        raise DataError(f"{path} lists no images.")
    if content.get("annotations"):
        raise DataError(
            f"{path} has annotations: for the full report use --split=val with"
            " --data.val_annotations and --data.val_images, which a coco_folder has."
        )
    return images


def check_classes(card: ModelCard, class_names: Sequence[str]) -> None:
    """Checks that a data set has the classes that a model was trained with.

    Raises:
      DataError: it has others, or in another order.
    """
    if tuple(class_names) == card.class_names:
        return
    pairs = zip(card.class_names, class_names, strict=False)
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if first is None:
        first = min(len(card.class_names), len(class_names))
    ours, theirs = (
        names[first] if first < len(names) else "no such class"
        for names in (card.class_names, class_names)
    )
    raise DataError(
        f"the model has {len(card.class_names)} classes and the data set"
        f" {len(class_names)}; class {first} is {ours!r} for the one and {theirs!r} for"
        " the other: evaluate on a data set with the classes that it learned."
    )
