"""State dicts as torchvision names them, at any width, of small random numbers."""

import numpy as np


class StateDict(dict):
    """Tensors by name; filled by hand as torchvision's constructors do it."""

    def __init__(self, seed: int = 0):
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def add(self, name: str, *shape: int) -> None:
        self[name] = self.rng.normal(0, 0.1, shape).astype(np.float32)

    def conv(self, name: str, inputs: int, outputs: int, size: int, bias=False) -> None:
        self.add(f"{name}.weight", outputs, inputs, size, size)
        if bias:
            self.add(f"{name}.bias", outputs)

    def linear(self, name: str, inputs: int, outputs: int) -> None:
        self.add(f"{name}.weight", outputs, inputs)
        self.add(f"{name}.bias", outputs)

    def norm(self, name: str, channels: int) -> None:
        self.add(f"{name}.weight", channels)
        self.add(f"{name}.bias", channels)

    def batch_norm(self, name: str, channels: int) -> None:
        self.norm(name, channels)
        self.add(f"{name}.running_mean", channels)
        var = self.rng.uniform(0.5, 1.5, channels)
        self[f"{name}.running_var"] = var.astype(np.float32)
        self[f"{name}.num_batches_tracked"] = np.array(7)


def resnet18(width: float, prefix: str = "", classifier: bool = True) -> StateDict:
    """`torchvision.models.resnet18().state_dict()`, or its body in a detector."""
    tensors = StateDict()
    stem = round(64 * width)
    tensors.conv(f"{prefix}conv1", 3, stem, 7)
    tensors.batch_norm(f"{prefix}bn1", stem)
    inputs = stem
    for stage in range(4):
        outputs = stem * 2**stage
        for block in range(2):
            name = f"{prefix}layer{stage + 1}.{block}"
            tensors.conv(f"{name}.conv1", inputs, outputs, 3)
            tensors.batch_norm(f"{name}.bn1", outputs)
            tensors.conv(f"{name}.conv2", outputs, outputs, 3)
            tensors.batch_norm(f"{name}.bn2", outputs)
            if inputs != outputs:
                tensors.conv(f"{name}.downsample.0", inputs, outputs, 1)
                tensors.batch_norm(f"{name}.downsample.1", outputs)
            inputs = outputs
    if classifier:
        tensors.linear("fc", inputs, 10)
    return tensors


def swin_t(width: float) -> StateDict:
    """`torchvision.models.swin_t().state_dict()`."""
    tensors = StateDict()
    first = 3 * round(32 * width)
    tensors.conv("features.0.0", 3, first, 4, bias=True)
    tensors.norm("features.0.2", first)
    for stage, count in enumerate((2, 2, 6, 2)):
        channels = first * 2**stage
        for block in range(count):
            name = f"features.{2 * stage + 1}.{block}"
            tensors.norm(f"{name}.norm1", channels)
            tensors.add(f"{name}.attn.relative_position_bias_table", 169, 3 * 2**stage)
            tensors[f"{name}.attn.relative_position_index"] = np.zeros(2401, np.int64)
            tensors.linear(f"{name}.attn.qkv", channels, 3 * channels)
            tensors.linear(f"{name}.attn.proj", channels, channels)
            tensors.norm(f"{name}.norm2", channels)
            tensors.linear(f"{name}.mlp.0", channels, 4 * channels)
            tensors.linear(f"{name}.mlp.3", 4 * channels, channels)
        if stage < 3:
            name = f"features.{2 * stage + 2}"
            tensors.norm(f"{name}.norm", 4 * channels)
            tensors.add(f"{name}.reduction.weight", 2 * channels, 4 * channels)
    tensors.norm("norm", 8 * first)
    tensors.linear("head", 8 * first, 10)
    return tensors


def retinanet_resnet18(
    width: float, channels: int, convs: int, classes: int
) -> StateDict:
    """RetinaNet on a ResNet-18, as torchvision builds it, with P6 from C5."""
    tensors = resnet18(width, "backbone.body.", classifier=False)
    stem = round(64 * width)
    for level in range(3):
        inputs = stem * 2 ** (level + 1)
        tensors.conv(f"backbone.fpn.inner_blocks.{level}.0", inputs, channels, 1, True)
        tensors.conv(
            f"backbone.fpn.layer_blocks.{level}.0", channels, channels, 3, True
        )
    tensors.conv("backbone.fpn.extra_blocks.p6", 8 * stem, channels, 3, True)
    tensors.conv("backbone.fpn.extra_blocks.p7", channels, channels, 3, True)
    for tower in ("classification", "regression"):
        for index in range(convs):
            name = f"head.{tower}_head.conv.{index}.0"
            tensors.conv(name, channels, channels, 3, True)
    name = "head.classification_head.cls_logits"
    tensors.conv(name, channels, 9 * classes, 3, True)
    tensors.conv("head.regression_head.bbox_reg", channels, 9 * 4, 3, True)
    return tensors


def mask_rcnn_resnet18(
    width: float, channels: int, units: int, classes: int, *, old: bool = False
) -> StateDict:
    """Mask R-CNN on a ResNet-18; `classes` without the background, which theirs has.

    `old`: under names from before torchvision 0.13, as the published ones are.
    """
    tensors = resnet18(width, "backbone.body.", classifier=False)
    step = "" if old else ".0"
    for level in range(4):
        inputs = round(64 * width) * 2**level
        name = f"backbone.fpn.inner_blocks.{level}{step}"
        tensors.conv(name, inputs, channels, 1, True)
        name = f"backbone.fpn.layer_blocks.{level}{step}"
        tensors.conv(name, channels, channels, 3, True)
    tensors.conv("rpn.head.conv" + ("" if old else ".0.0"), channels, channels, 3, True)
    tensors.conv("rpn.head.cls_logits", channels, 3, 1, True)
    tensors.conv("rpn.head.bbox_pred", channels, 12, 1, True)
    tensors.linear("roi_heads.box_head.fc6", channels * 49, units)
    tensors.linear("roi_heads.box_head.fc7", units, units)
    tensors.linear("roi_heads.box_predictor.cls_score", units, classes + 1)
    tensors.linear("roi_heads.box_predictor.bbox_pred", units, 4 * (classes + 1))
    name = "mask_fcn1" if old else "0.0"
    tensors.conv(f"roi_heads.mask_head.{name}", channels, channels, 3, True)
    name = "roi_heads.mask_predictor"
    tensors.conv(f"{name}.conv5_mask", channels, channels, 2, True)
    tensors.conv(f"{name}.mask_fcn_logits", channels, classes + 1, 1, True)
    return tensors
