"""A validation part for a set that comes in one piece: which images are held out."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.objects import Annotations
from agvm_jax.data.annotations.segments import Segments
from agvm_jax.data.augment.decode import Turns
from agvm_jax.data.formats.files import digest
from agvm_jax.data.storage.records import MakeOrigin, Origin

# The names that configs.base gives to what a validation split consists of. Where they
# were not changed and nothing of that name is there, no such split was meant.
VAL_DEFAULTS = {
    "val_annotations": "instances_val.json",
    "val_images": "val",
    "val_labels": "val_labels",
}


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """One of the two parts of a set without a validation split.

    Which images are held out depends on their names and the seed alone: they are those
    whose digests come first. So nearly all of them stay held out when others are added.

    Attributes:
      whole: the set.
      split: "train", or "val" for the images held out.
      share: of the images, 0 to 1, that are held out; one at least.
      seed: another one gives another choice.
    """

    whole: Origin
    split: str
    share: float
    seed: int

    @property
    def name(self) -> str:
        return self.whole.name

    @property
    def note(self) -> str:
        """How the parts came about; said once, of those held out."""
        if self.split == "train":
            return self.whole.note
        text = (
            f"no validation split is there: {100 * self.share:g} % of the images are"
            f" held out for it (data.val_share={self.share:g},"
            f" data.val_seed={self.seed})"
        )
        return f"{self.whole.note}; {text}" if self.whole.note else text

    def fingerprint(self) -> str:
        return digest(self.whole.fingerprint(), self.split, self.share, self.seed)

    def annotations(self) -> Annotations:
        whole = self.whole.annotations()
        return whole.select(self._chosen(whole))

    def turns(self, annotations: Annotations) -> Turns:
        """Decided of the whole, so that both parts are read in the same way."""
        whole = self.whole.annotations()
        return self.whole.turns(whole).select(self._chosen(whole))

    def image_sizes(self, annotations: Annotations) -> np.ndarray:
        return self.whole.image_sizes(annotations)

    def image_bytes(self, annotations: Annotations, index: int) -> bytes:
        return self.whole.image_bytes(annotations, index)

    def segments(self, annotations: Annotations, index: int) -> Segments | None:
        return self.whole.segments(annotations, index)

    def _chosen(self, whole: Annotations) -> np.ndarray:
        """Indices of this part's images, ascending."""
        count = len(whole)
        if count < 2:
            raise DataError(
                f"The set {self.name} has one image and no validation split: there is"
                " nothing to hold out; add images."
            )
        keys = [
            hashlib.sha256(f"{self.seed}/{name}".encode(errors="replace")).digest()
            for name in whole.file_names
        ]
        order = sorted(range(count), key=keys.__getitem__)
        held = min(max(1, round(self.share * count)), count - 1)
        chosen = order[:held] if self.split == "val" else order[held:]
        return np.array(sorted(chosen))


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
