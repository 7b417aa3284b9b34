"""Which tensor of a file belongs where: tables for detectors and for backbones.

A rule is a pattern of their module's name and our path for it; the last part of a name
is translated in `placing`.

Files of ImageNet weights hold a backbone without a prefix, and a classifier, which has
a place of its own here that no detector has. ResNets have the same names in torchvision
and timm; a Swin has others in each, and others still in its authors' files.
"""

from collections.abc import Iterable

Rules = tuple[tuple[str, str], ...]

# Detectors. torchvision's module name -> ours.
# Its published detectors still carry names from before version 0.13: there the ".0" is
# missing, and the convolutions of a tower are counted with the ReLUs between them.
RESNET_FPN_RULES = (
    (r"backbone\.body\.(conv\d|bn\d)", r"backbone/\1"),
    (r"backbone\.body\.(layer\d)\.(\d+)\.(conv\d|bn\d)", r"backbone/\1/\2/\3"),
    (
        r"backbone\.body\.(layer\d)\.(\d+)\.downsample\.0",
        r"backbone/\1/\2/shortcut/conv",
    ),
    (r"backbone\.body\.(layer\d)\.(\d+)\.downsample\.1", r"backbone/\1/\2/shortcut/bn"),
    (r"backbone\.fpn\.inner_blocks\.(\d+)(?:\.0)?", r"fpn/lateral/\1"),
    (r"backbone\.fpn\.layer_blocks\.(\d+)(?:\.0)?", r"fpn/output/\1"),
    (r"backbone\.fpn\.extra_blocks\.(p6|p7)", r"fpn/\1"),
)
RETINANET_RULES = (
    *RESNET_FPN_RULES,
    (r"head\.classification_head\.conv\.(\d+)\.0", r"head/class_tower/\1"),
    (r"head\.regression_head\.conv\.(\d+)\.0", r"head/box_tower/\1"),
    *(
        (rf"head\.{theirs}_head\.conv\.{2 * index}", f"head/{ours}_tower/{index}")
        for theirs, ours in (("classification", "class"), ("regression", "box"))
        for index in range(4)
    ),
    (r"head\.classification_head\.cls_logits", r"head/class_logits"),
    (r"head\.regression_head\.bbox_reg", r"head/box_deltas"),
)
FASTER_RCNN_RULES = (
    *RESNET_FPN_RULES,
    (r"rpn\.head\.conv(?:\.0\.0)?", r"rpn/conv"),
    (r"rpn\.head\.cls_logits", r"rpn/objectness"),
    (r"rpn\.head\.bbox_pred", r"rpn/box_deltas"),
    (r"roi_heads\.box_head\.(fc6|fc7)", r"box_head/\1"),
    (r"roi_heads\.box_predictor\.cls_score", r"box_head/class_logits"),
    (r"roi_heads\.box_predictor\.bbox_pred", r"box_head/box_deltas"),
)
MASK_RCNN_RULES = (
    *FASTER_RCNN_RULES,
    (r"roi_heads\.mask_head\.(\d+)\.0", r"mask_head/convs/\1"),
    *(
        (rf"roi_heads\.mask_head\.mask_fcn{index + 1}", f"mask_head/convs/{index}")
        for index in range(4)
    ),
    (r"roi_heads\.mask_predictor\.conv5_mask", r"mask_head/upsample"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits", r"mask_head/logits"),
)

# Backbones alone, as classification models have them.
RESNET_RULES = (
    (r"(conv\d|bn\d)", r"backbone/\1"),
    (r"(layer\d)\.(\d+)\.(conv\d|bn\d)", r"backbone/\1/\2/\3"),
    (r"(layer\d)\.(\d+)\.downsample\.0", r"backbone/\1/\2/shortcut/conv"),
    (r"(layer\d)\.(\d+)\.downsample\.1", r"backbone/\1/\2/shortcut/bn"),
    (r"fc", r"classifier"),
)


def _swin_stage(stage: int) -> Rules:
    """Rules of a stage, 1 to 4; between the stages stand the merging layers."""
    theirs, ours = rf"features\.{2 * stage - 1}\.(\d+)", rf"backbone/layer{stage}/\1"
    merging = rf"features\.{2 * stage - 2}\.(norm|reduction)"
    return (
        (merging, rf"backbone/merge{stage}/\1"),
        (rf"{theirs}\.(norm\d)", rf"{ours}/\2"),
        (rf"{theirs}\.attn", rf"{ours}/attn"),
        (rf"{theirs}\.attn\.(qkv|proj)", rf"{ours}/attn/\2"),
        (rf"{theirs}\.mlp\.0", rf"{ours}/fc1"),
        (rf"{theirs}\.mlp\.3", rf"{ours}/fc2"),
    )


SWIN_RULES = (
    (r"features\.0\.0", r"backbone/patch_embed"),
    (r"features\.0\.2", r"backbone/patch_embed/norm"),
    *(rule for stage in range(1, 5) for rule in _swin_stage(stage)),
    (r"norm", r"classifier/norm"),
    (r"head", r"classifier"),
)


def _other_swin(merging_stands_in: int) -> Rules:
    """Rules of timm and of the authors, who count the stages' layers from 0.

    Args:
      merging_stands_in: 1 if a merging layer opens the stage after it, 0 if it closes
        the stage before it.
    """
    block = r"layers\.{}\.blocks\.(\d+)\.{}"
    merging = r"layers\.{}\.downsample\.(norm|reduction)"
    return (
        (r"patch_embed\.proj", r"backbone/patch_embed"),
        (r"patch_embed\.norm", r"backbone/patch_embed/norm"),
        *(
            (block.format(stage - 1, theirs), rf"backbone/layer{stage}/\1/{ours}")
            for stage in range(1, 5)
            for theirs, ours in (
                (r"norm1", "norm1"),
                (r"attn", "attn"),
                (r"attn\.qkv", "attn/qkv"),
                (r"attn\.proj", "attn/proj"),
                (r"norm2", "norm2"),
                (r"mlp\.fc1", "fc1"),
                (r"mlp\.fc2", "fc2"),
            )
        ),
        *(
            (
                merging.format(stage - 2 + merging_stands_in),
                rf"backbone/merge{stage}/\1",
            )
            for stage in range(2, 5)
        ),
        (r"norm", r"classifier/norm"),
        (r"head(?:\.fc)?", r"classifier"),
    )


TIMM_SWIN_RULES = _other_swin(merging_stands_in=1)
AUTHORS_SWIN_RULES = _other_swin(merging_stands_in=0)

# A tensor that no other kind of file has -> the rules for those that have it.
KINDS = {
    "features.0.0.weight": SWIN_RULES,
    "layers.3.downsample.reduction.weight": TIMM_SWIN_RULES,
    "layers.0.downsample.reduction.weight": AUTHORS_SWIN_RULES,
    "conv1.weight": RESNET_RULES,
}


def rules_for(names: Iterable[str]) -> Rules | None:
    """Return the rules for a file with these tensors, None for an unknown kind."""
    names = set(names)
    return next((KINDS[name] for name in KINDS if name in names), None)
