"""COCO's recipes for training at several scales, as variants of other configs.

    python train.py --config configs/faster_rcnn.py:3x_ms --config.data.root=COCO_FOLDER

A variant sets how long a run is, where its rate drops and how large its images are.
Batch, optimizer, rate, warm-up and AGVM stay the config's own. Their names:

    1x_ms   90,000 steps of 16 images, so 12.28 epochs of 117,266; drops after 60,000
            and 80,000. The shorter side is one of 640, 672, ..., 800 pixels, the
            longer at most 1333. detectron2's 1x; mmdetection's 1x has 800 alone.
    3x_ms   the same at 270,000 steps, 36.84 epochs; drops after 210,000 and 250,000.
    lsj     large-scale jitter (Ghiasi et al. 2021): scales of 0.1 to 2 times what fits
            1024 x 1024, cut at random or padded to that; 100 epochs, drops after 8/9
            and 26/27 of them. --config.epochs=400 is the long one.

All evaluate at a shorter side of 800 and a longer of at most 1333 pixels, and leave out
training images without objects. The configs have the published figures, which are
detectron2's (MODEL_ZOO.md), for a ResNet-50 and its own rates: 16 images at 0.02
(RetinaNet 0.01), lsj 64 at 0.1. Nobody has run them here.

Not followed in lsj: theirs starts from random weights, as here where
`train.init_from` is left empty, but has decay 4e-5 (--config.optim.weight_decay=4e-5),
BatchNorm in FPN and heads, two convolutions in the RPN and four in the box head, and
takes boxes anew from the cut masks; here they are cut at the window.
"""

IMAGES = 117_266  # of COCO's train2017, those that have an object


def apply(config, variant):
    """Returns a config of COCO, changed to a variant; "" leaves it as it stands.

    Raises:
      ValueError: there is no such variant.
    """
    if not variant:
        return config
    if variant not in RECIPES:
        *most, last = RECIPES
        raise ValueError(
            f"{config.name} has no variant '{variant}': use {', '.join(most)} or {last}"
            f", as in --config configs/NAME.py:{last}."
        )
    config.name = f"{config.name}_{variant}"
    config.data.filter_empty = True
    RECIPES[variant](config)
    return config


def multi_scale(config):
    """Shorter sides of 640 to 800 pixels in the frame for 800 x 1333."""
    config.image_size = (800, 1344)
    config.data.short_sides = (640, 672, 704, 736, 768, 800)
    config.data.long_side = 1333
    config.data.scale_range = (1.0, 1.0)


def large_scale_jitter(config):
    """Scales of 0.1 to 2 on 1024 x 1024; evaluation is that of the others."""
    config.image_size = (1024, 1024)
    config.data.short_sides = ()
    config.data.long_side = 0
    config.data.scale_range = (0.1, 2.0)
    config.data.orientation_group = 0  # the frame is square
    config.eval.image_size = (800, 1344)
    config.eval.short_side = 800
    config.eval.long_side = 1333
    config.eval.orient = True


def _1x_ms(config):
    multi_scale(config)
    config.epochs = 90_000 * 16 / IMAGES
    config.optim.schedule = "step"
    config.optim.decay_at = (60 / 90, 80 / 90)


def _3x_ms(config):
    multi_scale(config)
    config.epochs = 270_000 * 16 / IMAGES
    config.optim.schedule = "step"
    config.optim.decay_at = (210 / 270, 250 / 270)


def _lsj(config):
    large_scale_jitter(config)
    config.epochs = 100.0
    config.optim.schedule = "step"
    config.optim.decay_at = (8 / 9, 26 / 27)


RECIPES = {"1x_ms": _1x_ms, "3x_ms": _3x_ms, "lsj": _lsj}
