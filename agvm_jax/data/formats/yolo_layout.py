"""Where a YOLO set has images, labels and class names: data.yaml, or usual layouts."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import yaml

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.formats.files import image_names, is_text, read_file

# What the splits are called, in data.yaml and as folders.
_NAMES = {"train": ("train",), "val": ("val", "valid", "validation")}
_YAML = ("data.yaml", "dataset.yaml", "data.yml")


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


@dataclasses.dataclass(frozen=True)
class YoloSet:
    """What is known of a YOLO set before a label is read.

    Attributes:
      names: of the classes.
      train: its images.
      val: those of the validation split; None: there is none.
      keypoints: whether lines go on with keypoints after the box (`kpt_shape`).
    """

    names: tuple[str, ...]
    train: YoloFiles
    val: YoloFiles | None
    keypoints: bool = False


def find_yolo(root: pathlib.Path) -> YoloSet:
    """Look at a folder, or at a .yaml file, which then lies in the set's folder.

    data.yaml is read as by Ultralytics: `path`, and `train` and `val` relative to it,
    each a folder, a .txt file that lists images, or a list of such. Written on another
    machine they may lead nowhere; then the usual layouts are looked for.

    Raises:
      DataError: no names, or no training images, or a validation split that is named
        and not there.
    """
    root = pathlib.Path(os.path.abspath(root))
    path, root = (root, root.parent) if root.is_file() else (find_yaml(root), root)
    content = _load_yaml(path) if path else {}
    bases = _bases(root, content.get("path"))
    train = _find_split(root, bases, content, "train", path)
    if train is None:
        raise DataError(
            f"{root} is no YOLO folder: it has no training images, neither where"
            f" {path.name if path else 'a data.yaml'} could say nor in"
            f" {' or '.join(images for images, _ in _usual_folders('train'))}."
        )
    val = _find_split(root, bases, content, "val", path)
    names = _class_names(root, path, content)
    return YoloSet(names, train, val, keypoints="kpt_shape" in content)


def is_yolo(root: pathlib.Path) -> bool:
    """Whether a folder has a training split: by data.yaml or in a usual layout."""
    root = pathlib.Path(os.path.abspath(root))
    try:
        path = find_yaml(root)
        content = _load_yaml(path) if path else {}
        bases = _bases(root, content.get("path"))
        return _find_split(root, bases, content, "train", path) is not None
    except DataError:
        return False


def _find_split(
    root: pathlib.Path,
    bases: tuple[pathlib.Path, ...],
    content: dict[str, Any],
    split: str,
    path: pathlib.Path | None,
) -> YoloFiles | None:
    """A split's images; None where nothing says that there is such a split."""
    entry = next((content[k] for k in _NAMES[split] if content.get(k)), None)
    entries = entry if isinstance(entry, list) else [entry] if entry else []
    if not all(isinstance(one, str) for one in entries):
        raise DataError(
            f"{path}: {split} is {str(entry)[:60]!r}, not a path or a list of paths."
        )
    sources = [_resolve(one, bases) for one in entries]
    if entries and None not in sources:
        return YoloFiles(root, tuple(sources), bases)
    missing = entries[sources.index(None)] if entries else ""
    usual = _usual_folders(split)
    for images, labels in usual:
        if (root / images).is_dir() and (root / labels).is_dir():
            note = f"{path.name} names {missing!r}, which is not there" if path else ""
            return YoloFiles(root, (root / images,), note=note if entries else "")
    if entries:
        raise DataError(
            f"{path} names {missing!r} for the {split} split, which is not there"
            f" (looked for in {', '.join(map(str, bases))}), and neither is"
            f" {' or '.join(images for images, _ in usual)}; correct the path, or put"
            " the images there."
        )
    return None


def _usual_folders(split: str) -> list[tuple[str, str]]:
    """Image and label folders of the usual layouts."""
    return [
        pair
        for name in _NAMES[split]
        for pair in (
            (f"images/{name}", f"labels/{name}"),
            (f"{name}/images", f"{name}/labels"),
        )
    ]


def _bases(root: pathlib.Path, path: Any) -> tuple[pathlib.Path, ...]:
    """Folders that the paths in data.yaml may be relative to, the likeliest first.

    `path` is meant from where training was started, or from the folder of all sets.
    """
    tried = [root / path, root.parent / path] if isinstance(path, str) and path else []
    return tuple(dict.fromkeys(base for base in (*tried, root) if base.is_dir()))


def _resolve(entry: str, bases: tuple[pathlib.Path, ...]) -> pathlib.Path | None:
    """An existing folder or list. As by Ultralytics, "../x" may also mean "x"."""
    for base in bases:
        for name in (entry, entry.removeprefix("../")):
            path = base / name
            if path.is_dir() or (path.suffix == ".txt" and path.is_file()):
                return path
    return None


def find_yaml(root: pathlib.Path) -> pathlib.Path | None:
    """data.yaml by one of its names, else the only one there that names classes."""
    for name in _YAML:
        if (root / name).is_file():
            return root / name
    found = [p for p in sorted(root.glob("*.y*ml")) if _names_classes(p)]
    return found[0] if len(found) == 1 else None


def _names_classes(path: pathlib.Path) -> bool:
    try:
        return "names" in _load_yaml(path)
    except DataError:
        return False


def _load_yaml(path: pathlib.Path) -> dict[str, Any]:
    """The mapping in a YAML file; empty where it holds something else."""
    try:
        content = yaml.safe_load(read_file(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path} is not valid YAML: {reason}.") from None
    return content if isinstance(content, dict) else {}


def _class_names(
    root: pathlib.Path, path: pathlib.Path | None, content: dict[str, Any]
) -> tuple[str, ...]:
    """`names` of data.yaml, a list or a mapping from 0 up; else of classes.txt."""
    if path is None:
        lines = root / "classes.txt"
        if not lines.is_file():
            raise DataError(
                f"There is neither data.yaml nor classes.txt in {root}: put one there"
                " that names the classes."
            )
        found: Any = read_file(lines).decode("utf-8-sig", "replace").split("\n")
        found = [line.strip() for line in found if line.strip()]
    else:
        found = content.get("names")
        if isinstance(found, dict) and set(found) == set(range(len(found))):
            found = [found[k] for k in range(len(found))]
    if not isinstance(found, list) or not found:
        raise DataError(
            f"{path or root} names no classes: it needs `names`, a list or a mapping"
            " that counts from 0."
        )
    if content.get("nc", len(found)) != len(found):
        raise DataError(
            f"{path}: nc is {str(content['nc'])[:40]}, but there are {len(found)}"
            " names."
        )
    names = tuple(str(name) for name in found)
    if not all(map(is_text, names)):
        raise DataError(f"{path}: a class has a name that is not UTF-8 text.")
    return names
