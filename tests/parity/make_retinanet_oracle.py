"""Write retinanet_oracle.npz: what torchvision makes of the seeded weights and inputs.

Run once, in an environment of its own (torch==2.14.1 and torchvision==0.29.1):

    python tests/parity/make_retinanet_oracle.py

The tests read only the file it writes.
"""

from pathlib import Path

import numpy as np
import torch
import torchvision
from seeded_models import build_seeded
from seeded_weights import (
    MAX_DETECTIONS,
    NUM_CLASSES,
    OBJECTS,
    PRE_NMS_TOP_K,
    make_images,
    make_tensor,
)

EVERY = 29  # one anchor in so many is stored
OUTPUT = Path(__file__).with_name("retinanet_oracle.npz")


def build_model() -> torch.nn.Module:
    return build_seeded(
        torchvision.models.detection.retinanet_resnet50_fpn,
        make_tensor,
        num_classes=NUM_CLASSES,
        topk_candidates=PRE_NMS_TOP_K,
        detections_per_img=MAX_DETECTIONS,
    )


def run_training(model, images, targets, seen):
    """Losses and gradients with BatchNorm frozen, as the builder has it by default.

    In float64, so that what is stored has no rounding of its own.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    hook = model.head.register_forward_hook(lambda _, __, output: seen.update(output))
    losses = model(images, targets)
    hook.remove()
    sum(losses.values()).backward()
    gradients = {
        name: parameter.grad.double().norm().item()
        for name, parameter in model.named_parameters()
        if "bn" not in name and "downsample.1" not in name
    }
    return losses, gradients


def main() -> None:
    torch.manual_seed(0)
    model = build_model()
    images = [
        torch.from_numpy(image).permute(2, 0, 1).double() / 255
        for image in make_images()
    ]
    targets = [
        {
            "boxes": torch.tensor([o[:4] for o in objects]).reshape(-1, 4).double(),
            "labels": torch.tensor([o[4] for o in objects], dtype=torch.int64),
        }
        for objects in OBJECTS
    ]
    seen = {}
    losses, gradients = run_training(model.double(), images, targets, seen)
    model.float().eval()
    with torch.no_grad():
        detections = model([image.float() for image in images])
    counts = [len(found["scores"]) for found in detections]
    print(f"losses {losses}\ndetections {counts}")
    print(f"score range {[d['scores'].aminmax() for d in detections]}")
    np.savez_compressed(
        OUTPUT,
        logits=seen["cls_logits"][:, ::EVERY].detach().float().numpy(),
        deltas=seen["bbox_regression"][:, ::EVERY].detach().float().numpy(),
        every=EVERY,
        classification=losses["classification"].item(),
        box=losses["bbox_regression"].item(),
        gradient_names=np.array(list(gradients)),
        gradient_norms=np.array(list(gradients.values())),
        counts=np.array(counts),
        boxes=torch.cat([found["boxes"] for found in detections]).numpy(),
        scores=torch.cat([found["scores"] for found in detections]).numpy(),
        labels=torch.cat([found["labels"] for found in detections]).numpy(),
    )
    print(f"{OUTPUT}: {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
