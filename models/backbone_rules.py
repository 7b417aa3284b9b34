"""Names of torchvision's classification models, for `pretrained`.

Files of ImageNet weights hold these: a backbone without a prefix, and a classifier,
which has a place of its own here that no detector has.
"""

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
