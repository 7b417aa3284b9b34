"""From the section `model` of a config to a detector.

All names that a config may use are in the two tables below; to add a backbone or a
detector, add a line. A head takes its section of the config as it is, so a new key of
a head is a keyword of its constructor and a line in `configs/base.py`.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from .backbones.resnet import ResNet
from .backbones.swin import Swin
from .backbones.uninet import UniNet
from .backbones.uninet_sizes import SIZES as UNINETS
from .detectors.pyramid import PyramidDetector
from .detectors.rcnn import RCNN
from .detectors.retinanet import RetinaNet
from .detectors.semantic_fpn import SemanticFPN
from .fpn import FPN
from .functional import Detector, make_detector
from .heads.box import BoxHead
from .heads.cascade import CascadeHead
from .heads.mask import MaskHead
from .heads.retina import RetinaHead
from .heads.rpn import RPNHead
from .heads.semantic import SemanticHead
from .looks import TestConfig
from .ops.anchors import Anchors
from .ops.forms import NAMES

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


def build_retinanet(
    config: ConfigDict, backbone: nnx.Module, num_classes: int, **options
) -> RetinaNet:
    """Build a RetinaNet with levels P3 to P7."""
    channels, anchors = config.fpn_channels, Anchors(**config.anchors)
    fpn = FPN(
        backbone.channels, channels, first_level=3, extra=config.p6_from, **options
    )
    make_head = with_settings(RetinaHead, config, "retina_head")
    head = make_head(channels, num_classes, anchors, **options)
    return RetinaNet(backbone, fpn, head, **image_settings(config))


def build_rcnn(
    config: ConfigDict,
    backbone: nnx.Module,
    num_classes: int,
    *,
    cascade: bool = False,
    masks: bool = False,
    num_labels: int | None = None,
    **options,
) -> RCNN:
    """Build a Faster, Mask or Cascade R-CNN, with `num_labels` a Panoptic FPN.

    Levels are P2 to P6, boxes are read from P2 to P5.
    """
    channels, anchors = config.fpn_channels, Anchors(**config.anchors)
    fpn = FPN(backbone.channels, channels, first_level=2, extra="max_pool", **options)
    rpn = with_settings(RPNHead, config, "rpn")(channels, anchors, **options)
    if cascade:
        make_head = with_settings(CascadeHead, config, "cascade_head")
    else:
        make_head = with_settings(BoxHead, config, "box_head")
    heads = {"box_head": make_head(channels, num_classes, **options)}
    if masks:
        make_head = with_settings(MaskHead, config, "mask_head")
        heads["mask_head"] = make_head(channels, num_classes, **options)
    if num_labels is not None:
        make_head = with_settings(SemanticHead, config, "semantic_head")
        heads["semantic_head"] = make_head(channels, num_labels, **options)
    return RCNN(backbone, fpn, rpn, **heads, **image_settings(config))


def build_panoptic_fpn(
    config: ConfigDict,
    backbone: nnx.Module,
    num_classes: int,
    *,
    num_labels: int,
    **options,
) -> RCNN:
    """Build a Panoptic FPN: a Mask R-CNN with a semantic head."""
    return build_rcnn(
        config, backbone, num_classes, masks=True, num_labels=num_labels, **options
    )


def build_semantic_fpn(
    config: ConfigDict,
    backbone: nnx.Module,
    num_classes: int,
    *,
    num_labels: int,
    **options,
) -> SemanticFPN:
    """Build a Semantic FPN on levels P2 to P5; no class of boxes is asked for."""
    channels = config.fpn_channels
    fpn = FPN(backbone.channels, channels, first_level=2, extra="max_pool", **options)
    make_head = with_settings(SemanticHead, config, "semantic_head")
    head = make_head(channels, num_labels, **options)
    return SemanticFPN(backbone, fpn, head, **image_settings(config))


DETECTORS = {
    "retinanet": build_retinanet,
    "faster_rcnn": build_rcnn,
    "mask_rcnn": functools.partial(build_rcnn, masks=True),
    "cascade_rcnn": functools.partial(build_rcnn, cascade=True),
    "cascade_mask_rcnn": functools.partial(build_rcnn, cascade=True, masks=True),
    "panoptic_fpn": build_panoptic_fpn,
    "semantic_fpn": build_semantic_fpn,
}
# Detectors that learn a class for each pixel; the others learn boxes, and of these
# Panoptic FPN does as well.
OF_PIXELS = ("semantic_fpn", "panoptic_fpn")


def build_detector(
    config: ConfigDict,
    *,
    num_classes: int,
    num_labels: int = 0,
    image_size: tuple[int, int],
    axis_name: str | tuple[str, ...] | None = None,
    freeze_at: int = 0,
) -> Detector:
    """Build the detector that `config` describes, as pure functions.

    Args:
      config: the section `model` of `configs/base.py`.
      num_classes: K, classes of boxes; class ids are 0..K-1.
      num_labels: classes of pixels, 0 where the data have no label maps.
      image_size: (height, width) of the padded input. Any size will do: a side of n
        pixels gives maps of ceil(n / 2^level).
      axis_name: the mesh axis of the replicas, for synced BatchNorm; None outside of
        any mesh.
      freeze_at: parts of the backbone, counted from the image, that stay as they are
        loaded: 1 the stem, 2 the first stage as well, 5 all of it.

    Raises:
      ValueError: a name is unknown or a value out of range.
    """
    if len(image_size) != 2 or min(image_size) < 32:
        raise ValueError(
            f"image_size {tuple(image_size)} is not a (height, width) of at least 32 "
            "pixels, the stride of the backbone"
        )
    build = look_up("model.detector", config.detector, DETECTORS)
    check_classes(config, num_classes, num_labels)
    if config.detector in OF_PIXELS:
        build = functools.partial(build, num_labels=num_labels)
    build_backbone = look_up("model.backbone", config.backbone, BACKBONES)
    dtype = look_up("model.dtype", config.dtype, DTYPES)

    def construct(rngs) -> PyramidDetector:
        options = {"dtype": dtype, "rngs": rngs}
        backbone = build_backbone(config, axis_name=axis_name, **options)
        detector = build(config, backbone, num_classes, **options)
        detector.backbone.freeze(freeze_at)
        return detector

    return make_detector(
        construct,
        forms=look_up("model.op_forms", config.op_forms, FORMS),
        forward_mode=config.forward_mode,
    )


def check_classes(config: ConfigDict, num_classes: int, num_labels: int) -> None:
    """Check that there are classes for what the detector learns.

    Raises:
      ValueError: there are none, or `test_cfg` asks for what the detector cannot do.
    """
    name = config.detector
    if num_classes < 1 and name != "semantic_fpn":
        raise ValueError(
            f"model.detector={name} learns boxes and the data have no class with boxes:"
            " use a data set that has, or --config.model.detector=semantic_fpn for"
            " classes of pixels alone"
        )
    if num_labels < 1 and name in OF_PIXELS:
        raise ValueError(
            f"model.detector={name} learns a class for each pixel and the data carry no"
            " label maps: use --config.data.semantic=all, or stuff, which makes one"
            " class of all things"
        )
    looks = TestConfig(**config.test_cfg)
    if name != "semantic_fpn" and looks.windows != TestConfig().windows:
        raise ValueError(
            f"model.detector={name} looks at whole images: model.test_cfg.mode,"
            " crop_size and stride are for semantic_fpn"
        )


def with_settings(
    head: type[nnx.Module], config: ConfigDict, section: str
) -> Callable[..., nnx.Module]:
    """Return the constructor of a head with what its section of the config says.

    Raises:
      ValueError: a key of the section is no keyword of the constructor.
    """
    given = inspect.signature(head.__init__).parameters.values()
    keywords = {each.name for each in given if each.kind == each.KEYWORD_ONLY}
    known = sorted(keywords - {"dtype", "rngs"})
    for key in config[section]:
        if key not in known:
            raise ValueError(
                f"model.{section}.{key} is not known; {section} has {', '.join(known)}"
            )
    return functools.partial(head, **config[section])


def image_settings(config: ConfigDict) -> dict[str, Any]:
    """Return how every detector takes images to be distributed, and looks at them."""
    return {
        "image_mean": config.image_mean,
        "image_std": config.image_std,
        "test_cfg": TestConfig(**config.test_cfg),
    }


def look_up(key: str, name: str, table: dict):
    """Return `table[name]`.

    Raises:
      ValueError: no such entry; the message names the config key and the known names.
    """
    if name not in table:
        raise ValueError(f"{key}={name!r} is not known; choose one of {sorted(table)}")
    return table[name]
