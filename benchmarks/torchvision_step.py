"""torchvision's side of `benchmarks.train_step`; needs torch and torchvision only."""

import argparse
import contextlib

import torch
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.ops.misc import FrozenBatchNorm2d

from benchmarks.turns import serve

NUM_CLASSES = 91
BOXES = 8
DETECTORS = {
    "retinanet": RetinaNet,
    "faster_rcnn": FasterRCNN,
    "mask_rcnn": MaskRCNN,
}


def make_step(args):
    """Return a function that takes one training step and waits for it."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    norm = FrozenBatchNorm2d if args.norm == "frozen" else torch.nn.BatchNorm2d
    levels = {}
    if args.detector == "retinanet":
        levels = {
            "returned_layers": [2, 3, 4],
            "extra_blocks": LastLevelP6P7(256, 256),
        }
    backbone = resnet_fpn_backbone(
        backbone_name=args.backbone,
        weights=None,
        norm_layer=norm,
        trainable_layers=5,
        **levels,
    )
    side = args.image_size
    model = DETECTORS[args.detector](
        backbone, NUM_CLASSES, min_size=side, max_size=side
    )
    model = model.to(device, memory_format=getattr(torch, args.memory_format))
    model.train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4
    )
    images, targets = [], []
    for _ in range(args.batch_size):
        corner = torch.rand(BOXES, 2) * side / 2
        extent = side / 16 + torch.rand(BOXES, 2) * side * 7 / 16
        boxes = torch.cat([corner, corner + extent], dim=1).to(device)
        labels = torch.randint(NUM_CLASSES, (BOXES,), device=device)
        images.append(torch.rand(3, side, side, device=device))
        masks = torch.randint(2, (BOXES, side, side), dtype=torch.uint8, device=device)
        targets.append({"boxes": boxes, "labels": labels, "masks": masks})
    compute = contextlib.nullcontext()
    if args.dtype != "float32":
        compute = torch.autocast(device, getattr(torch, args.dtype))

    def step():
        optimizer.zero_grad(set_to_none=True)
        with compute:
            loss = sum(model(images, targets).values())
        loss.backward()
        optimizer.step()
        loss.item()  # waits for the device

    return step


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--detector", required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--norm", required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--memory-format", default="channels_last")
    args = parser.parse_args()
    serve(make_step(args), args.steps)
