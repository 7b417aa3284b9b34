"""A small Panoptic FPN on generated shapes: no accelerator and no download.

    python train.py --config configs/panoptic_fpn_shapes.py

The network of configs/mask_rcnn_shapes.py with a semantic head, which learns three
kinds of stuff and one class for all shapes.
"""

from configs import mask_rcnn_shapes


def get_config():
    config = mask_rcnn_shapes.get_config()
    config.name = "panoptic_fpn_shapes"
    config.data.shapes.stuff = True
    config.data.semantic = "stuff"
    config.data.semantic_stride = 1
    config.model.detector = "panoptic_fpn"
    config.model.semantic_head.channels = 32
    config.model.semantic_head.loss_weight = 0.5
    # COCO's 4096 are for images of 480 x 640 pixels.
    config.eval.panoptic.stuff_area_limit = 4096 * 128 * 128 // (480 * 640)
    return config
