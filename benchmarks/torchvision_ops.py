"""torchvision's side of `benchmarks.detector_ops`; needs torch and torchvision only."""

import sys

import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import MultiScaleRoIAlign, batched_nms, box_iou

from benchmarks.operands import LEVELS, SIDE, make_operands
from benchmarks.turns import serve


def make_step(op: str):
    """Return a function that does the work of one op for a batch."""
    operands = {k: torch.from_numpy(v) for k, v in make_operands(op).items()}
    if op == "roi_align":
        names = [str(index) for index in range(LEVELS)]
        pooler = MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2)
        features = {
            name: operands[f"level{name}"].permute(0, 3, 1, 2).contiguous()
            for name in names
        }
        weight = operands["weight"].permute(0, 1, 4, 2, 3).flatten(0, 1).contiguous()
        boxes = list(operands["boxes"])
        sizes = [(SIDE, SIDE)] * len(boxes)

        def step():
            levels = {k: v.requires_grad_() for k, v in features.items()}
            for level in levels.values():
                level.grad = None
            (pooler(levels, boxes, sizes) * weight).sum().backward()

    elif op == "nms":
        levels = operands["levels"].long()

        def step():
            for boxes, scores in zip(
                operands["boxes"], operands["scores"], strict=True
            ):
                batched_nms(boxes, scores, levels, 0.7)[:2000]

    else:
        matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)

        def step():
            for boxes in operands["boxes"]:
                matcher(box_iou(boxes, operands["anchors"]))

    return step


if __name__ == "__main__":
    serve(make_step(sys.argv[1]), int(sys.argv[2]))
