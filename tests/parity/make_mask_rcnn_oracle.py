"""Write mask_rcnn_oracle.npz: what torchvision's Mask R-CNN makes of seeded weights.

Run once, in an environment of its own (torch==2.14.1 and torchvision==0.29.1):

    python tests/parity/make_mask_rcnn_oracle.py

What `make_faster_rcnn_oracle.py` says holds here too. The canvas is another one.
"""

from pathlib import Path

import numpy as np
import torch
from make_faster_rcnn_oracle import build_model, make_inputs, run_training
from seeded_weights import MASK_OBJECTS, MASK_PICTURES, make_bitmaps, make_pictures
from torchvision.models.detection import maskrcnn_resnet50_fpn

EVERY = 4  # one cell in so many is stored, along each side
MASKS = 5  # of so many detections of each picture
OUTPUT = Path(__file__).with_name("mask_rcnn_oracle.npz")


def run_inference(model, images):
    """Detections, and the mask logits of each one's class."""
    model.eval()
    seen = []
    hook = model.roi_heads.mask_predictor.register_forward_hook(
        lambda _, __, output: seen.append(output)
    )
    with torch.no_grad():
        detections = model(images)
    hook.remove()
    labels = torch.cat([found["labels"] for found in detections])
    return detections, seen[0][torch.arange(len(labels)), labels]


def main() -> None:
    torch.manual_seed(0)
    model = build_model(maskrcnn_resnet50_fpn)
    images, targets = make_inputs(make_pictures(MASK_PICTURES), MASK_OBJECTS)
    for target, bitmaps in zip(targets, make_bitmaps(), strict=True):
        target["masks"] = torch.from_numpy(bitmaps)
    losses, gradients = run_training(model.double(), images, targets)
    detections, logits = run_inference(model.float(), [x.float() for x in images])
    counts = [len(found["scores"]) for found in detections]
    print(f"losses {losses}\ndetections {counts}")
    first = [part[:MASKS, ::EVERY, ::EVERY] for part in logits.split(counts)]
    np.savez_compressed(
        OUTPUT,
        every=EVERY,
        objectness=losses["loss_objectness"].item(),
        rpn_box=losses["loss_rpn_box_reg"].item(),
        classification=losses["loss_classifier"].item(),
        box=losses["loss_box_reg"].item(),
        mask=losses["loss_mask"].item(),
        gradient_names=np.array(list(gradients)),
        gradient_norms=np.array(list(gradients.values())),
        counts=np.array(counts),
        boxes=torch.cat([found["boxes"] for found in detections]).numpy(),
        scores=torch.cat([found["scores"] for found in detections]).numpy(),
        labels=torch.cat([found["labels"] for found in detections]).numpy() - 1,
        mask_logits=torch.stack(first).numpy(),
    )
    print(f"{OUTPUT}: {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
