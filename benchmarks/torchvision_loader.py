"""The peer of `benchmarks.data`: PIL, then torch and torchvision, or NumPy alone.

Needs none of our packages but `benchmarks.turns`: the interpreter that runs it may have
torchvision and nothing else.
"""

import argparse
import json
import os
import random
import time

import numpy as np
from PIL import Image

from benchmarks.turns import serve

SHORT, LONG, MULTIPLE = 800, 1333, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Files:
    """The images of a COCO folder with their boxes, as torchvision's CocoDetection."""

    def __init__(self, root: str, count: int):
        with open(os.path.join(root, "instances_train.json")) as file:
            content = json.load(file)
        self.images = content["images"][:count]
        self.root = os.path.join(root, "train")
        self.objects: dict[int, list[dict]] = {}
        for one in content["annotations"]:
            self.objects.setdefault(one["image_id"], []).append(one)

    def decode(self, image: dict) -> Image.Image:
        with open(os.path.join(self.root, image["file_name"]), "rb") as file:
            return Image.open(file).convert("RGB")

    def boxes(self, image: dict) -> np.ndarray:
        """(n, 4) x1 y1 x2 y2."""
        objects = self.objects.get(image["id"], [])
        boxes = np.array([o["bbox"] for o in objects], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return boxes


def target_size(width: int, height: int) -> tuple[int, int]:
    """Width and height after resizing."""
    scale = min(SHORT / min(width, height), LONG / max(width, height))
    return int(width * scale), int(height * scale)


class Torchvision:
    """torchvision.transforms on PIL images, and its detection models' batching."""

    def __init__(self):
        import torch
        from torchvision.transforms import functional

        torch.set_num_threads(1)
        self._torch, self._functional = torch, functional

    def resize(self, pixels, size):
        return self._functional.resize(pixels, size[::-1])

    def flip(self, pixels):
        return self._functional.hflip(pixels)

    def tensor(self, pixels):
        return self._functional.to_tensor(pixels)

    def normalize(self, image):
        return self._functional.normalize(image, MEAN, STD)

    def batch(self, images):
        sides = [max(i.shape[k] for i in images) for k in (1, 2)]
        sides = [-(-side // MULTIPLE) * MULTIPLE for side in sides]
        out = self._torch.zeros(len(images), 3, *sides)
        for row, image in zip(out, images, strict=True):
            row[:, : image.shape[1], : image.shape[2]].copy_(image)
        return out


class Numpy:
    """The same with NumPy, channels last: for where there is no torch."""

    def resize(self, pixels, size):
        return pixels.resize(size, Image.Resampling.BILINEAR)

    def flip(self, pixels):
        return pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    def tensor(self, pixels):
        return np.asarray(pixels).astype(np.float32) / np.float32(255)

    def normalize(self, image):
        return (image - np.array(MEAN, np.float32)) / np.array(STD, np.float32)

    def batch(self, images):
        sides = [max(i.shape[k] for i in images) for k in (0, 1)]
        sides = [-(-side // MULTIPLE) * MULTIPLE for side in sides]
        out = np.zeros((len(images), *sides, 3), np.float32)
        for row, image in zip(out, images, strict=True):
            row[: image.shape[0], : image.shape[1]] = image
        return out


class Loader:
    """Batches of one orientation; adds up what each stage takes."""

    def __init__(self, args):
        self.files = Files(args.root, args.images)
        self.batch_size = args.batch_size
        self.tools = {"torchvision": Torchvision, "numpy": Numpy}[args.kind]()
        self.spent: dict[str, float] = {}
        self._random = random.Random(0)

    def epoch(self) -> None:
        """All images once."""
        order = self._random.sample(self.files.images, len(self.files.images))
        for wide in (True, False):
            same = [i for i in order if (i["width"] >= i["height"]) == wide]
            for start in range(0, len(same), self.batch_size):
                self.batch(same[start : start + self.batch_size])

    def batch(self, images: list[dict], flip: float = 0.5):
        """The images as one array, and a list of their boxes."""
        tensors, targets = [], []
        for image in images:
            pixels = self._timed("decode", self.files.decode, image)
            boxes = self._timed("boxes", self.files.boxes, image)
            size = target_size(*pixels.size)
            boxes = boxes * np.tile(np.array(size) / pixels.size, 2)
            pixels = self._timed("resize", self.tools.resize, pixels, size)
            if self._random.random() < flip:
                pixels = self._timed("flip", self.tools.flip, pixels)
                boxes[:, [0, 2]] = size[0] - boxes[:, [2, 0]]
            tensor = self._timed("to tensor", self.tools.tensor, pixels)
            tensor = self._timed("normalise", self.tools.normalize, tensor)
            tensors.append(tensor)
            targets.append(boxes)
        return self._timed(
            "pad and stack the batch", self.tools.batch, tensors
        ), targets

    def _timed(self, name, function, *arguments):
        start = time.thread_time()
        result = function(*arguments)
        self.spent[name] = self.spent.get(name, 0.0) + time.thread_time() - start
        return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True)
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--core", type=int, required=True)
    parser.add_argument("--kind", required=True, help="torchvision | numpy")
    parser.add_argument("--stages", action="store_true")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[args.core]})
    loader = Loader(args)
    if args.stages:
        loader.epoch()
        loader.spent.clear()
        loader.epoch()
        count = len(loader.files.images)
        print(json.dumps({k: 1000 * s / count for k, s in loader.spent.items()}))
    else:
        serve(loader.epoch, 1)
