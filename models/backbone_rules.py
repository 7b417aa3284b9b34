"""Names of classification models, for `pretrained`.

Files of ImageNet weights hold these: a backbone without a prefix, and a classifier,
which has a place of its own here that no detector has. ResNets have the same names in
torchvision and timm; a Swin has others in each, and others still in its authors' files.
"""

from collections.abc import Iterable

RESNET_RULES = (
    (r"(conv\d|bn\d)", r"backbone/\1"),
    (r"(layer\d)\.(\d+)\.(conv\d|bn\d)", r"backbone/\1/\2/\3"),
    (r"(layer\d)\.(\d+)\.downsample\.0", r"backbone/\1/\2/shortcut/conv"),
    (r"(layer\d)\.(\d+)\.downsample\.1", r"backbone/\1/\2/shortcut/bn"),
    (r"fc", r"classifier"),
)


def _swin_stage(stage: int) -> tuple[tuple[str, str], ...]:
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


def _other_swin(merging_stands_in: int) -> tuple[tuple[str, str], ...]:
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


def rules_for(names: Iterable[str]) -> tuple[tuple[str, str], ...] | None:
    """Return the rules for a file with these tensors, None for an unknown kind."""
    names = set(names)
    return next((KINDS[name] for name in KINDS if name in names), None)
