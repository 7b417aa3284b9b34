"""From the section `model` of a config to a detector.

All names that a config may use are in the two tables below; to add a backbone or a
detector, add a line.
"""

import functools

import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from .backbones.resnet import ResNet
from .backbones.swin import Swin
from .backbones.uninet import SIZES as UNINETS
from .backbones.uninet import UniNet
from .detectors.mask_rcnn import MaskRCNN
from .detectors.rcnn import FasterRCNN
from .detectors.retinanet import RetinaNet
from .fpn import FPN
from .functional import Detector, make_detector
from .heads.box import BoxHead
from .heads.mask import MaskHead
from .heads.retina import RetinaHead
from .heads.rpn import RPNHead
from .ops.forms import NAMES

# Bins of a pooled box along each side: for its class and its corners (Lin et al. 2017,
# section 4.2), and for its mask (He et al. 2017, figure 4).
BOX_ROI_SIZE = 7
MASK_ROI_SIZE = 14

# Keys that a detector takes as they are: every one of them, and the R-CNNs besides.
SHARED_KEYS = (
    "anchor_sizes",
    "anchor_scales",
    "anchor_ratios",
    "score_threshold",
    "nms_threshold",
    "pre_nms_top_k",
    "max_detections",
    "image_mean",
    "image_std",
)
RCNN_KEYS = (
    "rpn_pre_nms_top_k",
    "rpn_post_nms_top_k",
    "rpn_nms_threshold",
    "rpn_samples",
    "roi_samples",
)

# None: the forms of the platform that JAX computes on.
FORMS = {"auto": None, **{name: name for name in NAMES}}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build_resnet(depth: int, config: ConfigDict, *, axis_name, dtype, rngs) -> ResNet:
    """Build a ResNet; `norm` is a key for it alone."""
    return ResNet(
        depth,
        width=config.width,
        norm=config.norm,
        axis_name=axis_name,
        dtype=dtype,
        rngs=rngs,
    )


def build_swin(size: str, config: ConfigDict, *, axis_name, dtype, rngs) -> Swin:
    """Build a Swin; `drop_path` is a key for it alone."""
    del axis_name  # LayerNorm looks at one place of one image
    return Swin(
        size, width=config.width, drop_path=config.drop_path, dtype=dtype, rngs=rngs
    )


def build_uninet(size: str, config: ConfigDict, *, axis_name, dtype, rngs) -> UniNet:
    """Build a UniNet; `remat` is a key for it alone."""
    return UniNet(
        size,
        width=config.width,
        norm=config.norm,
        axis_name=axis_name,
        drop_path=config.drop_path,
        remat=config.remat,
        dtype=dtype,
        rngs=rngs,
    )


BACKBONES = {
    "resnet18": functools.partial(build_resnet, 18),
    "resnet34": functools.partial(build_resnet, 34),
    "resnet50": functools.partial(build_resnet, 50),
    "swin_t": functools.partial(build_swin, "t"),
    "swin_s": functools.partial(build_swin, "s"),
    "swin_b": functools.partial(build_swin, "b"),
    "swin_l": functools.partial(build_swin, "l"),
    **{f"uninet_{size}": functools.partial(build_uninet, size) for size in UNINETS},
}


def build_backbone(
    config: ConfigDict, *, axis_name: str | None, rngs: nnx.Rngs
) -> nnx.Module:
    """Build `config.backbone`."""
    return look_up("model.backbone", config.backbone, BACKBONES)(
        config,
        axis_name=axis_name,
        dtype=look_up("model.dtype", config.dtype, DTYPES),
        rngs=rngs,
    )


def build_retinanet(
    config: ConfigDict, *, num_classes: int, axis_name: str | None, rngs: nnx.Rngs
) -> RetinaNet:
    """Build a RetinaNet with levels P3 to P7."""
    dtype = look_up("model.dtype", config.dtype, DTYPES)
    backbone = build_backbone(config, axis_name=axis_name, rngs=rngs)
    fpn = FPN(
        backbone.channels,
        config.fpn_channels,
        first_level=3,
        extra=config.p6_from,
        dtype=dtype,
        rngs=rngs,
    )
    head = RetinaHead(
        config.fpn_channels,
        num_classes,
        num_anchors=config.anchor_scales * len(config.anchor_ratios),
        head_convs=config.head_convs,
        dtype=dtype,
        rngs=rngs,
    )
    return RetinaNet(
        backbone,
        fpn,
        head,
        **{name: config[name] for name in SHARED_KEYS},
    )


def build_rcnn(
    detector: type[FasterRCNN],
    config: ConfigDict,
    *,
    num_classes: int,
    axis_name: str | None,
    rngs: nnx.Rngs,
) -> FasterRCNN:
    """Build a Faster or Mask R-CNN: levels P2 to P6, boxes are read from P2 to P5."""
    dtype = look_up("model.dtype", config.dtype, DTYPES)
    channels = config.fpn_channels
    backbone = build_backbone(config, axis_name=axis_name, rngs=rngs)
    modules = {
        "backbone": backbone,
        "fpn": FPN(
            backbone.channels,
            channels,
            first_level=2,
            extra="max_pool",
            dtype=dtype,
            rngs=rngs,
        ),
        "rpn": RPNHead(
            channels,
            num_anchors=config.anchor_scales * len(config.anchor_ratios),
            dtype=dtype,
            rngs=rngs,
        ),
        "box_head": BoxHead(
            channels,
            num_classes,
            roi_size=BOX_ROI_SIZE,
            width=config.box_head_width,
            dtype=dtype,
            rngs=rngs,
        ),
    }
    if issubclass(detector, MaskRCNN):
        modules["mask_head"] = MaskHead(
            channels,
            num_classes,
            num_convs=config.mask_head_convs,
            roi_size=MASK_ROI_SIZE,
            dtype=dtype,
            rngs=rngs,
        )
    return detector(
        **modules,
        **{name: config[name] for name in (*SHARED_KEYS, *RCNN_KEYS)},
    )


DETECTORS = {
    "retinanet": build_retinanet,
    "faster_rcnn": functools.partial(build_rcnn, FasterRCNN),
    "mask_rcnn": functools.partial(build_rcnn, MaskRCNN),
}


def build_detector(
    config: ConfigDict,
    *,
    num_classes: int,
    image_size: tuple[int, int],
    axis_name: str | None = None,
    freeze_at: int = 0,
) -> Detector:
    """Build the detector that `config` describes, as pure functions.

    Args:
      config: the section `model` of `configs/base.py`.
      num_classes: K; class ids are 0..K-1.
      image_size: (height, width) of the padded input. Any size will do: a side of n
        pixels gives maps of ceil(n / 2^level).
      axis_name: the mesh axis of the replicas, for synced BatchNorm; None outside of
        any mesh.
      freeze_at: parts of the backbone, counted from the image, that stay as they are
        loaded: 1 the stem, 2 the first stage as well, 5 all of it.

    Raises:
      ValueError: a name is unknown or a value out of range.
    """
    if num_classes < 1:
        raise ValueError(f"a detector needs at least one class, not {num_classes}")
    if len(image_size) != 2 or min(image_size) < 32:
        raise ValueError(
            f"image_size {tuple(image_size)} is not a (height, width) of at least 32 "
            "pixels, the stride of the backbone"
        )
    build = look_up("model.detector", config.detector, DETECTORS)

    def construct(rngs):
        module = build(config, num_classes=num_classes, axis_name=axis_name, rngs=rngs)
        module.backbone.freeze(freeze_at)
        return module

    return make_detector(construct, look_up("model.op_forms", config.op_forms, FORMS))


def look_up(key: str, name: str, table: dict):
    """Return `table[name]`.

    Raises:
      ValueError: no such entry; the message names the config key and the known names.
    """
    if name not in table:
        raise ValueError(f"{key}={name!r} is not known; choose one of {sorted(table)}")
    return table[name]
