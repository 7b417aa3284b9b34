"""Random ground truth with masks, and detections of it."""

import numpy as np
from pycocotools import mask as pycocotools_mask

from agvm_jax.structures import Batch, Predictions

SIDE = 14  # of a predicted mask


def make_truth(rng, images=6):
    """Polygons, and run lengths for crowds; some images are empty."""
    truth = {"images": [], "annotations": [], "categories": [{"id": 4}, {"id": 2}]}
    for image_id in range(1, images + 1):
        height, width = rng.integers(60, 120, 2).tolist()
        truth["images"].append({"id": image_id, "height": height, "width": width})
        for _ in range(0 if image_id == 2 else rng.integers(1, 6)):
            center = rng.uniform(20, 45, 2)
            angles = np.sort(rng.uniform(0, 2 * np.pi, 7))
            radius = rng.uniform(6, 20, 7)
            points = center + radius[:, None] * np.stack(
                [np.cos(angles), np.sin(angles)], 1
            )
            crowd = rng.random() < 0.2
            segmentation = [points.ravel().tolist()]
            rle = pycocotools_mask.merge(
                pycocotools_mask.frPyObjects(segmentation, height, width)
            )
            area = float(pycocotools_mask.area(rle))
            box = pycocotools_mask.toBbox(rle).tolist()
            if crowd:
                segmentation = {
                    "size": [height, width],
                    "counts": rle["counts"].decode("ascii"),
                }
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice([4, 2])),
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(crowd),
                    "segmentation": segmentation,
                }
            )
    return truth


def make_batches(rng, truth, slots=12, batch_size=4):
    """Detections near the objects with round masks, and some at random."""
    yy, xx = np.mgrid[:SIDE, :SIDE] + 0.5
    disk = 1.0 - np.hypot(yy - SIDE / 2, xx - SIDE / 2) / SIDE
    images = truth["images"]
    for start in range(0, len(images), batch_size):
        image_id = np.full(batch_size, -1)
        size = np.ones((batch_size, 2), int)
        boxes = np.zeros((batch_size, slots, 4))
        for row, image in enumerate(images[start : start + batch_size]):
            image_id[row] = image["id"]
            size[row] = image["height"], image["width"]
            near = [
                a["bbox"] for a in truth["annotations"] if a["image_id"] == image["id"]
            ]
            for slot in range(slots):
                x, y, w, h = near[slot % len(near)] if near else (5, 5, 20, 20)
                boxes[row, slot] = [x, y, x + w, y + h]
        boxes += rng.normal(0, 2, boxes.shape)
        shape = (batch_size, slots)
        masks = np.clip(disk + 0.1 * rng.normal(size=(*shape, SIDE, SIDE)), 0, 1)
        masks[:, 3] = 0.1  # nothing reaches a half: an empty mask
        scores = np.sort(np.round(rng.random(shape), 1), axis=1)[:, ::-1]
        yield (
            Batch(None, size, image_id, *[None] * 4),
            Predictions(
                boxes, scores, rng.integers(0, 2, shape), rng.random(shape) < 0.8, masks
            ),
        )
