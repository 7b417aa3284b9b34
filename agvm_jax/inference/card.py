"""model.json: what has to be known of weights, besides their numbers, to use them."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agvm_jax.run_files import CARD

FORMAT = 1  # raised when what is written changes its meaning


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """What a model gives, and what it expects.

    Attributes:
      outputs: of "boxes", "masks", "semantic".
      class_names: K names; class k of a detection is class_names[k].
      category_ids: K ids, of these classes in the data set's own numbers.
      label_names: names of the labels of pixels; () where it gives none.
      label_ids: the category id of each label that is stuff, None for one that is not.
      image_size: (height, width) of the padded input.
      short_side: pixels that an image's shorter side gets; 0: as many as fit.
      long_side: pixels that its longer side may have; 0: as many as fit.
      turned_frame: whether images higher than wide get `image_size` turned.
      exif: whether images are turned as their EXIF data say.
      image_mean, image_std: of red, green, blue in 0 .. 255. The model itself subtracts
        the one and divides by the other: it takes uint8.
      config: the whole config of the run.
    """

    outputs: tuple[str, ...]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    label_names: tuple[str, ...]
    label_ids: tuple[int | None, ...]
    image_size: tuple[int, int]
    short_side: int
    long_side: int
    turned_frame: bool
    exif: bool
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    config: Mapping[str, Any]


def write_card(folder: Path, card: ModelCard) -> Path:
    """Writes model.json into a folder, and returns its path."""
    path = Path(folder) / CARD
    partial = path.with_suffix(".partial")
    content = {"format": FORMAT, **dataclasses.asdict(card)}
    partial.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    partial.replace(path)
    return path


def read_card(path: Path) -> ModelCard:
    """Reads a model.json.

    Raises:
      ValueError: it is absent, no JSON, of another version, or lacks something.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text("utf-8"))
        version = content.pop("format")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path} is not what a run leaves there: start the run's command again,"
            " which writes it anew."
        ) from error
    if version != FORMAT:
        raise ValueError(
            f"{path} has format {version} and this code reads {FORMAT}: start the run's"
            " command again, which writes it anew."
        )
    names = [field.name for field in dataclasses.fields(ModelCard)]
    if lacking := [name for name in names if name not in content]:
        raise ValueError(f"{path} lacks {', '.join(lacking)}: it was changed by hand.")
    return ModelCard(**{name: as_tuples(content[name]) for name in names})


def as_tuples(content: Any) -> Any:
    """Returns what JSON holds with tuples for its lists."""
    if isinstance(content, list):
        return tuple(as_tuples(item) for item in content)
    if isinstance(content, dict):
        return {key: as_tuples(value) for key, value in content.items()}
    return content
