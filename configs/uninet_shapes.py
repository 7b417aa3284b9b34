"""A small UniNet with a cascade on generated shapes: no accelerator and no download.

    python train.py --config configs/uninet_shapes.py

Cascade R-CNN on UniNet-B0 of half the width, with AGVM around AdamW, 128 px, trained
from scratch on the data of configs/quickstart.py. In place of the backbone's other
sizes: --config.model.backbone=uninet_30m, and --config.model.backbone=resnet18 for the
network that configs/faster_rcnn_shapes.py trains. AGVM measures the three box stages as
one module; --config.agvm.modules in configs/base.py says how to tell them apart.
"""

from configs import faster_rcnn_shapes


def get_config():
    config = faster_rcnn_shapes.get_config()
    config.name = "uninet_shapes"
    config.model.detector = "cascade_rcnn"
    config.model.backbone = "uninet_b0"
    config.model.width = 0.5
    config.model.drop_path = 0.0
    config.model.remat = False  # its maps are small
    config.model.cascade_head.samples = 64
    config.model.cascade_head.width = 128
    return config
