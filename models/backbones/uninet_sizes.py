"""The networks of the UniNet family: how many blocks of which kind, how wide.

What of this is published and what our reading is told in `uninet`.
"""

from typing import NamedTuple


class Architecture(NamedTuple):
    """A network of the family.

    Attributes:
      repeats: blocks of each stage.
      channels: of each stage.
      stem: channels of the stem.
      head_channels: channels of a head of attention.
      blocks: of each stage: "mb" or "fused" convolutions, "attention" between places or
        "covariance" of channels.
      modules: whether down-sampling modules stand between the stages: local ones first,
        local-global ones before stages of attention. Otherwise a stage's first block
        takes the stride.
    """

    repeats: tuple[int, ...]
    channels: tuple[int, ...]
    stem: int = 32
    head_channels: int = 32
    blocks: tuple[str, ...] = ("mb",) * 4 + ("attention",) * 2
    modules: bool = True


SIZES = {
    "b0": Architecture((1, 2, 4, 4, 4, 8), (24, 48, 80, 128, 128, 256)),
    "b2": Architecture((2, 3, 6, 6, 6, 12), (24, 48, 80, 128, 128, 256)),
    "b3": Architecture((2, 3, 7, 7, 7, 14), (24, 56, 96, 160, 160, 288)),
    "b4": Architecture((2, 4, 9, 9, 9, 18), (32, 64, 112, 192, 192, 352)),
    "b5": Architecture((3, 5, 10, 10, 10, 20), (32, 64, 112, 224, 224, 448)),
    "b6": Architecture((4, 6, 12, 12, 12, 24), (48, 96, 160, 256, 256, 512)),
    "30m": Architecture(
        (2, 3, 6, 6, 6, 12),
        (32, 64, 128, 192, 192, 384),
        head_channels=48,
        modules=False,
    ),
    "1b": Architecture(
        (4, 6, 12, 12, 12, 24),
        (128, 256, 512, 768, 768, 1536),
        stem=96,
        head_channels=64,
        blocks=("fused",) * 2 + ("mb",) * 2 + ("covariance",) * 2,
        modules=False,
    ),
}
SIZES["b1"] = SIZES["b0"]
