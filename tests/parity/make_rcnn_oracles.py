"""Write what torchvision's Faster and Mask R-CNN make of seeded weights and inputs.

Run once, in an environment of its own (torch==2.14.1 and torchvision==0.29.1):

    python tests/parity/make_rcnn_oracles.py

The tests read only the files it writes, faster_rcnn_oracle.npz and
mask_rcnn_oracle.npz. What a scene of `seeded_weights` gives has its name in front; of
what is large a part is stored. What both detectors make of the same images is checked
to be the same and stored once, with Faster R-CNN's. Samples are larger than what there
is to choose from, so that the losses do not depend on a random choice.
"""

from pathlib import Path

import numpy as np
import torch
from seeded_models import build_seeded
from seeded_weights import (
    ANCHORS_EVERY,
    CELLS_EVERY,
    FASTER_RCNN_SCENES,
    MASK_RCNN_SCENES,
    MASKS,
    NUM_CLASSES,
    RCNN_MAX_DETECTIONS,
    RCNN_POST_NMS_TOP_K,
    RCNN_PRE_NMS_TOP_K,
    RCNN_SAMPLES,
    ROIS,
    make_bitmaps,
    make_images,
    make_rcnn_tensor,
    pick,
)
from torchvision.models.detection import fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn

# Ours and theirs.
LOSSES = {
    "objectness": "loss_objectness",
    "rpn_box": "loss_rpn_box_reg",
    "classification": "loss_classifier",
    "box": "loss_box_reg",
    "mask": "loss_mask",
}
DETECTORS = {
    "faster_rcnn": (fasterrcnn_resnet50_fpn, FASTER_RCNN_SCENES),
    "mask_rcnn": (maskrcnn_resnet50_fpn, MASK_RCNN_SCENES),
}


def build_model(build) -> torch.nn.Module:
    return build_seeded(
        build,
        make_rcnn_tensor,
        num_classes=NUM_CLASSES + 1,
        rpn_pre_nms_top_n_train=RCNN_PRE_NMS_TOP_K,
        rpn_pre_nms_top_n_test=RCNN_PRE_NMS_TOP_K,
        rpn_post_nms_top_n_train=RCNN_POST_NMS_TOP_K,
        rpn_post_nms_top_n_test=RCNN_POST_NMS_TOP_K,
        rpn_batch_size_per_image=RCNN_SAMPLES,
        box_batch_size_per_image=RCNN_SAMPLES,
        box_detections_per_img=RCNN_MAX_DETECTIONS,
    )


def make_inputs(scene, with_masks):
    """Images and targets as torchvision takes them."""
    images = [
        torch.from_numpy(image).permute(2, 0, 1).double() / 255
        for image in make_images(scene.image_sizes)
    ]
    targets = [
        {
            "boxes": torch.tensor([o[:4] for o in objects]).reshape(-1, 4).double(),
            # Theirs count from 1, after the background.
            "labels": torch.tensor([o[4] + 1 for o in objects], dtype=torch.int64),
        }
        for objects in scene.objects
    ]
    if with_masks:
        for target, bitmaps in zip(targets, make_bitmaps(scene), strict=True):
            target["masks"] = torch.from_numpy(bitmaps)
    return images, targets


def run_training(model, images, targets):
    """Losses and gradients' norms, as stored, and the names of the latter.

    In float64, so that what is stored has no rounding of its own.
    """
    model.double().train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    model.zero_grad()
    losses = model(images, targets)
    sum(losses.values()).backward()
    norms = {
        name: parameter.grad.norm().item()
        for name, parameter in model.named_parameters()
        if "bn" not in name and "downsample.1" not in name
    }
    stored = {
        "losses": np.array(
            [losses[name].item() for name in LOSSES.values() if name in losses]
        ),
        "gradient_norms": np.array(list(norms.values())),
    }
    return stored, list(norms)


def run_inference(model, images):
    """Detections, and on their way the outputs of each part by its name."""
    model.float().eval()
    parts = {
        "backbone": model.backbone.body,
        "fpn": model.backbone,
        "rpn_head": model.rpn.head,
        "proposals": model.rpn,
        "box_head": model.roi_heads.box_predictor,
    }
    if model.roi_heads.has_mask():
        parts["mask_head"] = model.roi_heads.mask_predictor
    seen = {}
    hooks = [
        module.register_forward_hook(
            lambda _, __, output, name=name: seen.update({name: output})
        )
        for name, module in parts.items()
    ]
    with torch.no_grad():
        detections = model([image.float() for image in images])
    for hook in hooks:
        hook.remove()
    return detections, seen


def pick_levels(levels):
    """Elements of (B, C, H, W) feature maps, one row a level."""
    return np.stack([pick(x.permute(0, 2, 3, 1).numpy()) for x in levels.values()])


def flatten(levels, width):
    """A list of (B, A * width, H, W) -> (B, anchors of all levels, width)."""
    return torch.cat(
        [x.permute(0, 2, 3, 1).reshape(len(x), -1, width) for x in levels], dim=1
    )


def stored_outputs(detections, seen):
    """Of what `run_inference` returns that which is stored."""
    logits, deltas = seen["rpn_head"]
    proposals, _ = seen["proposals"]
    proposal_counts = [len(boxes) for boxes in proposals]
    scores, boxes = (x.split(proposal_counts) for x in seen["box_head"])
    counts = [len(found["scores"]) for found in detections]
    labels = torch.cat([found["labels"] for found in detections])
    stored = {
        "backbone": pick_levels(seen["backbone"]),
        "fpn": pick_levels(seen["fpn"]),
        "rpn_logits": flatten(logits, 1)[:, ::ANCHORS_EVERY, 0].numpy(),
        "rpn_deltas": flatten(deltas, 4)[:, ::ANCHORS_EVERY].numpy(),
        "proposal_counts": np.array(proposal_counts),
        "proposals": torch.cat(proposals).numpy(),
        "class_logits": torch.stack([x[:ROIS] for x in scores]).numpy(),
        "box_deltas": torch.stack([x[:ROIS] for x in boxes]).numpy(),
        "counts": np.array(counts),
        "boxes": torch.cat([found["boxes"] for found in detections]).numpy(),
        "scores": torch.cat([found["scores"] for found in detections]).numpy(),
        "labels": (labels - 1).to(torch.uint8).numpy(),
    }
    if "mask_head" in seen:
        own = seen["mask_head"][torch.arange(len(labels)), labels].split(counts)
        first = [x[:MASKS, ::CELLS_EVERY, ::CELLS_EVERY] for x in own]
        stored["mask_logits"] = torch.stack(first).numpy()
    return stored


def without_known(found, known):
    """What is not in `known` yet; what is agrees with it but for float32's rounding."""
    for name in found.keys() & known.keys():
        np.testing.assert_allclose(found[name], known[name], rtol=1e-4, atol=1e-3)
    return {name: found[name] for name in found.keys() - known.keys()}


def main() -> None:
    outputs = {name: {} for name in FASTER_RCNN_SCENES}
    for detector, (build, scenes) in DETECTORS.items():
        model = build_model(build)
        stored = {}
        for scene in scenes:
            images, targets = make_inputs(
                scenes[scene], with_masks=detector == "mask_rcnn"
            )
            found, stored["gradient_names"] = run_training(model, images, targets)
            print(detector, scene, found["losses"])
            new = without_known(
                stored_outputs(*run_inference(model, images)), outputs[scene]
            )
            outputs[scene] |= new
            stored |= {f"{scene}/{key}": x for key, x in (found | new).items()}
        path = Path(__file__).with_name(f"{detector}_oracle.npz")
        np.savez_compressed(path, **stored)
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
