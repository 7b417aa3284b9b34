"""Which images a split of a YOLO set has, and which text file belongs to each."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.formats.fingerprints import image_names


@dataclasses.dataclass(frozen=True)
class YoloFiles:
    """The images of a split.

    Attributes:
      root: of the set.
      sources: folders of images, which may be nested, and .txt files that list some.
      bases: folders that names in such a list may be relative to, beside the list's.
      note: what a person should know of how they were found.
    """

    root: pathlib.Path
    sources: tuple[pathlib.Path, ...]
    bases: tuple[pathlib.Path, ...] = ()
    note: str = ""

    @functools.cached_property
    def images(self) -> dict[str, pathlib.Path]:
        """Name -> path. Names are relative to the folder, where there is only one, else
        to the root.

        Raises:
          DataError: there is none, or one that a list names is absent.
        """
        found: dict[str, pathlib.Path] = {}
        for source in self.sources:
            if source.is_dir():
                one = len(self.sources) == 1
                for name in image_names(source):
                    path = source / name
                    found[name if one else self._name(path)] = path
            else:
                found |= {self._name(path): path for path in self._listed(source)}
        if not found:
            raise DataError(
                f"There is no image in {' or '.join(map(str, self.sources))}."
            )
        return found

    def _listed(self, path: pathlib.Path) -> Iterator[pathlib.Path]:
        """The images that a .txt file names, one a line."""
        text = read_file(path).decode("utf-8-sig", "replace")
        names = [line.strip() for line in text.split("\n") if line.strip()]
        places = [(name, self._place(name, path.parent)) for name in names]
        absent = [name for name, place in places if place is None]
        if absent:
            raise DataError(
                f"{len(absent)} of the {len(names)} images that {path} lists are not"
                f" there: {', '.join(map(repr, absent[:10]))}"
                f"{', ...' * (len(absent) > 10)}; add them or remove their lines."
            )
        return (place for _, place in places if place is not None)

    def _place(self, name: str, beside: pathlib.Path) -> pathlib.Path | None:
        tried = (base / name for base in (beside, *self.bases, self.root))
        return next((path for path in tried if os.path.isfile(path)), None)

    def _name(self, path: pathlib.Path) -> str:
        path = pathlib.Path(os.path.normpath(path))
        inside = path.is_relative_to(self.root)
        return (path.relative_to(self.root) if inside else path).as_posix()

    def label(self, image: pathlib.Path) -> pathlib.Path:
        """The text file of an image: in `labels` where it is in `images`, else beside.

        As by Ultralytics the last of several `images` counts; those that lie above the
        set do not.
        """
        inside = image.is_relative_to(self.root)
        base = self.root if inside else pathlib.Path(image.anchor)
        parts = list(image.relative_to(base).parts)
        for k in range(len(parts) - 2, -1, -1):
            if parts[k] == "images":
                parts[k] = "labels"
                break
        return base.joinpath(*parts).with_suffix(".txt")


def read_file(path: pathlib.Path) -> bytes:
    """A file's content; DataError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
