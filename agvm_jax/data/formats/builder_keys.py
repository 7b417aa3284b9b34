"""What the builders of data sets share: keys of config.data, and what lies on disk."""

import pathlib
from collections.abc import Callable
from typing import Any

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.augment.exif import Annotated
from agvm_jax.data.formats.held_out import HeldOut
from agvm_jax.data.storage.records import Origin

# A builder takes the config and returns a maker of origins: (split, categories of the
# training split or None) -> Origin.
MakeOrigin = Callable[[str, dict[int, str] | None], Origin]

# The names that configs.base gives to what a validation split consists of. Where they
# were not changed and nothing of that name is there, no such split was meant.
VAL_DEFAULTS = {
    "val_annotations": "instances_val.json",
    "val_images": "val",
    "val_labels": "val_labels",
}


def root_of(data_config: Any, remedy: str) -> pathlib.Path:
    """config.data.root, which must be a folder."""
    if not data_config.root:
        raise DataError(f"config.data.root is empty: {remedy}.")
    root = pathlib.Path(data_config.root).expanduser()
    require_folder(root, "data", remedy)
    return root


def require_folder(folder: pathlib.Path, what: str, remedy: str) -> None:
    if not folder.is_dir():
        raise DataError(f"There is no {what} folder {folder}: {remedy}.")


def annotated_by(data_config: Any, usual: Annotated) -> Annotated:
    """Of which pictures annotations are: config.data.exif_turns, or what is usual.

    Raises:
      DataError: the key has no such value.
    """
    known = {
        "auto": usual,
        "applied": Annotated.TURNED,
        "ignored": Annotated.STORED,
    }
    if data_config.exif_turns not in known:
        raise DataError(
            f"config.data.exif_turns is {data_config.exif_turns!r}; it must be"
            f" {', '.join(known)}."
        )
    return known[data_config.exif_turns]


def lacks_validation(
    data_config: Any, root: pathlib.Path, keys: tuple[str, ...]
) -> bool:
    """Whether a folder has no validation split, and none was asked for by name.

    Args:
      keys: those of config.data that name its files and folders.
    """
    names = [getattr(data_config, key) for key in keys]
    if not any(names):  # emptied on purpose
        return True
    if names != [VAL_DEFAULTS[key] for key in keys]:
        return False
    # A split of another name is one too, and has to be named.
    return not any((root / name).exists() for name in (*names, "valid", "validation"))


def hold_out(make_whole: Callable[[], Origin], data_config: Any) -> MakeOrigin:
    """Origins for both parts of a set that has a training split only.

    Raises:
      DataError: config.data.val_share leaves no images for one of them.
    """
    share = data_config.val_share
    if not 0 < share < 1:
        raise DataError(
            f"The set in {data_config.root} has no validation split, and"
            f" config.data.val_share is {share}: set it to a share between 0 and 1 of"
            " the images to hold out, or name the split with the val_ keys of"
            " config.data."
        )
    return lambda split, categories: HeldOut(
        make_whole(), split, share, data_config.val_seed
    )
