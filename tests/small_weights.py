"""Small detectors to load weights into, and what stands in their place before."""

import jax
import jax.numpy as jnp
from torchvision_names import retinanet_resnet18

from configs import base
from models.build import build_detector

WIDTH, CHANNELS, CLASSES = 1 / 16, 8, 3


def make_detector(backbone="resnet18", classes=CLASSES, freeze_at=0, **changes):
    config = base.get_config().model
    config.update(backbone=backbone, width=WIDTH, fpn_channels=CHANNELS)
    config.retina_head.num_convs = config.mask_head.num_convs = 1
    config.box_head.width = 12
    config.update(changes)
    return build_detector(
        config, num_classes=classes, image_size=(64, 64), freeze_at=freeze_at
    )


def shapes_of(detector):
    return jax.eval_shape(detector.init, jax.random.key(0))


def as_initialised(shapes):
    """Arrays of sevens in the place of random ones."""
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, 7.0), shapes)


def whole_detector(classes=CLASSES):
    return retinanet_resnet18(WIDTH, CHANNELS, convs=1, classes=classes)
