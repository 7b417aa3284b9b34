"""A small Semantic FPN on generated shapes: no accelerator and no download.

    python train.py --config configs/semantic_fpn_shapes.py

The data, backbone and pyramid of configs/quickstart.py. The ground is divided into
three kinds of stuff, so each pixel has one of six classes: clouds, waves, tiles, and
the three shapes upon them.
"""

from configs import quickstart


def get_config():
    config = quickstart.get_config()
    config.name = "semantic_fpn_shapes"
    config.data.shapes.stuff = True
    config.data.semantic = "all"
    config.data.semantic_stride = 1
    config.model.detector = "semantic_fpn"
    config.model.semantic_head.channels = 32
    return config
