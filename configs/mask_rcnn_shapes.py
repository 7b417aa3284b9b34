"""A small Mask R-CNN on generated shapes: no accelerator and no download.

    python train.py --config configs/mask_rcnn_shapes.py

The network of configs/faster_rcnn_shapes.py with a mask head.
"""

from configs import faster_rcnn_shapes


def get_config():
    config = faster_rcnn_shapes.get_config()
    config.name = "mask_rcnn_shapes"
    config.data.mask_size = 28
    config.model.detector = "mask_rcnn"
    config.model.mask_head.num_convs = 2
    return config
