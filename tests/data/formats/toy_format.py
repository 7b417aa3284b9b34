"""A format in one file, as docs/data.md says: grey squares, named in boxes.csv."""

import dataclasses
import pathlib

import numpy as np

from agvm_jax.data.annotations.objects import Annotations
from agvm_jax.data.augment.decode import Annotated, decide_turns
from agvm_jax.data.formats.files import Sign, digest, listing, read_file, root_of
from agvm_jax.data.storage.records import FORMAT


def recognises(root, data_config):
    return Sign((root / "train" / "boxes.csv").is_file(), "train/boxes.csv")


def origins(data_config):
    root = root_of(data_config, "set --config.data.root=PATH to a folder of boxes.csv")
    return lambda split, categories: ToyOrigin(split, root / split)


@dataclasses.dataclass(frozen=True)
class ToyOrigin:
    """Lines `file name,x,y,width,height`; one class."""

    split: str
    folder: pathlib.Path
    name: str = "toy"
    note: str = ""

    def fingerprint(self):
        return digest(
            FORMAT, listing(self.folder), read_file(self.folder / "boxes.csv")
        )

    def annotations(self):
        lines = read_file(self.folder / "boxes.csv").decode().split()
        rows = [line.split(",") for line in lines]
        count = len(rows)
        boxes = np.array([row[1:] for row in rows], np.float64)
        names = [row[0] for row in rows]
        unknown = np.zeros((count, 2), np.int64)
        files = [self.folder / name for name in names]
        return Annotations(
            image_ids=np.arange(count),
            file_names=names,
            sizes=decide_turns(files, unknown, Annotated.STORED).sizes,
            category_ids=(1,),
            class_names=("square",),
            object_ids=np.arange(1, count + 1),
            object_image=np.arange(count),
            object_class=np.zeros(count, np.int32),
            boxes=boxes,
            areas=boxes[:, 2] * boxes[:, 3],
            crowd=np.zeros(count, bool),
            segmentations=[None] * count,
        )

    def turns(self, annotations):
        files = [self.folder / name for name in annotations.file_names]
        return decide_turns(files, annotations.sizes, Annotated.STORED)

    def image_sizes(self, annotations):
        files = [self.folder / name for name in annotations.file_names]
        return np.array([file.stat().st_size for file in files])

    def image_bytes(self, annotations, index):
        return read_file(self.folder / annotations.file_names[index])

    def segments(self, annotations, index):
        return None
