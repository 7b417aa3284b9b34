"""What was found in many images, written down: drawn, as COCO JSON, as PNG maps."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from agvm_jax.inference.card import ModelCard
from agvm_jax.inference.found import Found
from agvm_jax.panoptic_png import write_panoptic_png

JPEG_QUALITY = 92


class Writer:
    """A folder of predictions.

    * ``predictions.json``: a COCO dictionary, ``images`` (id, file_name, height,
      width), ``categories`` and ``annotations`` (image_id, category_id, bbox as x y w
      h, area, score, and a run-length ``segmentation`` where there are masks);
    * ``drawn/``: the images with what was found in them, as JPEG;
    * ``labels/``: label maps as PNG, each pixel the index of its label among ``labels``
      of predictions.json; 255 for none, or 65535 where there are more than 255;
    * ``panoptic/`` and ``panoptic.json``, in COCO's panoptic format.

    Args:
      folder: made if it is not there.
      card: of the model.
      draw: whether images are drawn.
    """

    def __init__(self, folder: str | Path, card: ModelCard, draw: bool = True):
        self.folder, self._card, self._draw = Path(folder), card, draw
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._panoptic: list[dict[str, Any]] = []
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(
        self,
        found: Found,
        name: str,
        image: np.ndarray | None = None,
        image_id: int | None = None,
    ) -> list[dict[str, Any]]:
        """Takes one image, and returns its objects as a COCO results list.

        Args:
          found: what was found in it.
          name: of the files that are written, without an ending; may have folders.
          image: (H, W, 3) uint8 RGB, to be drawn; None: it is not.
          image_id: None: the images are numbered 1, 2, ...
        """
        image_id = len(self._images) + 1 if image_id is None else image_id
        height, width = found.size
        self._images.append(
            {
                "id": image_id,
                "file_name": found.name or name,
                "height": height,
                "width": width,
            }
        )
        results = found.results(image_id)
        for place, one in enumerate(results):
            area = one["bbox"][2] * one["bbox"][3]
            if found.masks is not None:
                area = int(np.count_nonzero(found.masks[place]))
            number = len(self._annotations) + 1
            self._annotations.append({"id": number, "area": area, "iscrowd": 0} | one)
        if found.semantic is not None:
            self._save(self._label_image(found.semantic), "labels", name, "png")
        if found.panoptic is not None:
            path = self._place("panoptic", name, "png")
            write_panoptic_png(path, found.panoptic)
            file_name = path.relative_to(self.folder / "panoptic").as_posix()
            segments = [dict(segment) for segment in found.segments]
            entry = {"image_id": image_id, "file_name": file_name}
            self._panoptic.append(entry | {"segments_info": segments})
        if self._draw and image is not None:
            self._save(Image.fromarray(found.draw(image)), "drawn", name, "jpg")
        return results

    def close(self) -> None:
        """Writes the JSON."""
        card = self._card
        categories = [
            {"id": number, "name": name}
            for number, name in zip(card.category_ids, card.class_names, strict=True)
        ]
        whole: dict[str, Any] = {"images": self._images, "categories": categories}
        whole["annotations"] = self._annotations
        if card.label_names:
            whole["labels"] = list(card.label_names)
        self._write("predictions.json", whole)
        if self._panoptic:
            things = [one | {"isthing": 1} for one in categories]
            stuff = [
                {"id": number, "name": name, "isthing": 0}
                for number, name in zip(card.label_ids, card.label_names, strict=True)
                if number is not None
            ]
            maps = {"images": self._images, "categories": things + stuff}
            self._write("panoptic.json", maps | {"annotations": self._panoptic})

    def _label_image(self, labels: np.ndarray) -> Image.Image:
        count = len(self._card.label_names)
        kind = np.uint8 if count < 256 else np.uint16
        named = (labels >= 0) & (labels < count)
        return Image.fromarray(np.where(named, labels, np.iinfo(kind).max).astype(kind))

    def _place(self, kind: str, name: str, ending: str) -> Path:
        path = self.folder / kind / f"{name}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _save(self, image: Image.Image, kind: str, name: str, ending: str) -> None:
        options = {"quality": JPEG_QUALITY} if ending == "jpg" else {}
        image.save(self._place(kind, name, ending), **options)

    def _write(self, name: str, content: Any) -> None:
        partial = self.folder / f"{name}.partial"
        partial.write_text(json.dumps(content), "utf-8")
        partial.replace(self.folder / name)


def output_names(paths: Iterable[Path]) -> list[str]:
    """Returns a name for what is written of each file: no two are the same.

    The path below what the files share, without its ending unless two differ in
    nothing else.
    """
    paths = list(paths)
    if not paths:
        return []
    parents = [path.parent.parts for path in paths]
    shared = 0
    while all(len(p) > shared and p[shared] == parents[0][shared] for p in parents):
        shared += 1
    below = [Path(*path.parts[shared:]) for path in paths]
    stems = Counter(path.with_suffix("") for path in below)
    return [
        (path if stems[path.with_suffix("")] > 1 else path.with_suffix("")).as_posix()
        for path in below
    ]
