"""Write faster_rcnn_oracle.npz: what torchvision makes of seeded weights and inputs.

Run once, in an environment of its own (torch==2.14.1 and torchvision==0.29.1):

    python tests/parity/make_faster_rcnn_oracle.py

The tests read only the file it writes. Samples are larger than what there is to choose
from, so that the losses do not depend on a random choice.
"""

from pathlib import Path

import numpy as np
import torch
import torchvision
from seeded_weights import (
    NUM_CLASSES,
    OBJECTS,
    RCNN_MAX_DETECTIONS,
    RCNN_POST_NMS_TOP_K,
    RCNN_PRE_NMS_TOP_K,
    RCNN_SAMPLES,
    make_pictures,
    make_rcnn_tensor,
)

EVERY = 97  # one anchor in so many is stored
ROIS = 6  # of each picture's proposals the head's outputs are stored
OUTPUT = Path(__file__).with_name("faster_rcnn_oracle.npz")


def build_model(
    build=torchvision.models.detection.fasterrcnn_resnet50_fpn,
) -> torch.nn.Module:
    model = build(
        weights=None,
        weights_backbone=None,
        num_classes=NUM_CLASSES + 1,
        trainable_backbone_layers=5,
        image_mean=[123.675 / 255, 116.28 / 255, 103.53 / 255],
        image_std=[58.395 / 255, 57.12 / 255, 57.375 / 255],
        rpn_pre_nms_top_n_train=RCNN_PRE_NMS_TOP_K,
        rpn_pre_nms_top_n_test=RCNN_PRE_NMS_TOP_K,
        rpn_post_nms_top_n_train=RCNN_POST_NMS_TOP_K,
        rpn_post_nms_top_n_test=RCNN_POST_NMS_TOP_K,
        rpn_batch_size_per_image=RCNN_SAMPLES,
        box_batch_size_per_image=RCNN_SAMPLES,
        box_detections_per_img=RCNN_MAX_DETECTIONS,
    )
    model.load_state_dict(
        {
            name: tensor
            if name.endswith("num_batches_tracked")
            else torch.from_numpy(make_rcnn_tensor(name, tuple(tensor.shape)))
            for name, tensor in model.state_dict().items()
        }
    )
    # The pictures have their size already.
    model.transform.resize = lambda image, target: (image, target)
    return model


def run_training(model, images, targets):
    """Losses and gradients with BatchNorm frozen, as the builder has it by default.

    In float64, so that what is stored has no rounding of its own.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    losses = model(images, targets)
    sum(losses.values()).backward()
    gradients = {
        name: parameter.grad.double().norm().item()
        for name, parameter in model.named_parameters()
        if "bn" not in name and "downsample.1" not in name
    }
    return losses, gradients


def run_inference(model, images):
    """Detections, and on their way the outputs of the RPN and of the box head."""
    model.eval()
    seen = {}
    hooks = [
        module.register_forward_hook(
            lambda _, __, output, name=name: seen.update({name: output})
        )
        for name, module in {
            "rpn_head": model.rpn.head,
            "proposals": model.rpn,
            "boxes": model.roi_heads.box_predictor,
        }.items()
    ]
    with torch.no_grad():
        detections = model(images)
    for hook in hooks:
        hook.remove()
    return detections, seen


def flatten(levels, width):
    """A list of (B, A * width, H, W) -> (B, anchors of all levels, width)."""
    return torch.cat(
        [x.permute(0, 2, 3, 1).reshape(len(x), -1, width) for x in levels], dim=1
    )


def make_inputs(pictures, objects_of):
    """Images and targets as torchvision takes them."""
    images = [
        torch.from_numpy(picture).permute(2, 0, 1).double() / 255
        for picture in pictures
    ]
    targets = [
        {
            "boxes": torch.tensor([o[:4] for o in objects]).reshape(-1, 4).double(),
            # Theirs count from 1, after the background.
            "labels": torch.tensor([o[4] + 1 for o in objects], dtype=torch.int64),
        }
        for objects in objects_of
    ]
    return images, targets


def main() -> None:
    torch.manual_seed(0)
    model = build_model()
    images, targets = make_inputs(make_pictures(), OBJECTS)
    losses, gradients = run_training(model.double(), images, targets)
    detections, seen = run_inference(model.float(), [x.float() for x in images])
    logits, deltas = seen["rpn_head"]
    proposals, _ = seen["proposals"]
    proposal_counts = [len(boxes) for boxes in proposals]
    scores, boxes = (x.split(proposal_counts) for x in seen["boxes"])
    counts = [len(found["scores"]) for found in detections]
    print(f"losses {losses}\nproposals {proposal_counts}, detections {counts}")
    print(f"score range {[d['scores'].aminmax() for d in detections]}")
    np.savez_compressed(
        OUTPUT,
        every=EVERY,
        rois=ROIS,
        rpn_logits=flatten(logits, 1)[:, ::EVERY, 0].numpy(),
        rpn_deltas=flatten(deltas, 4)[:, ::EVERY].numpy(),
        proposal_counts=np.array(proposal_counts),
        proposals=torch.cat(proposals).numpy(),
        class_logits=torch.stack([x[:ROIS] for x in scores]).numpy(),
        box_deltas=torch.stack([x[:ROIS] for x in boxes]).numpy(),
        objectness=losses["loss_objectness"].item(),
        rpn_box=losses["loss_rpn_box_reg"].item(),
        classification=losses["loss_classifier"].item(),
        box=losses["loss_box_reg"].item(),
        gradient_names=np.array(list(gradients)),
        gradient_norms=np.array(list(gradients.values())),
        counts=np.array(counts),
        boxes=torch.cat([found["boxes"] for found in detections]).numpy(),
        scores=torch.cat([found["scores"] for found in detections]).numpy(),
        labels=torch.cat([found["labels"] for found in detections]).numpy() - 1,
    )
    print(f"{OUTPUT}: {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
