"""A small Faster R-CNN on generated shapes: no accelerator and no download.

    python train.py --config configs/faster_rcnn_shapes.py

Faster R-CNN ResNet-18 FPN with AGVM around AdamW, 128 px, trained from scratch: the
data and the size of the network are those of configs/quickstart.py, which trains a
RetinaNet.
"""

from configs import quickstart


def get_config():
    config = quickstart.get_config()
    config.name = "faster_rcnn_shapes"

    config.model.detector = "faster_rcnn"
    config.model.anchors.sizes = (16.0, 32.0, 64.0, 96.0, 128.0)
    config.model.anchors.scales = 1
    config.model.rpn.pre_nms_top_k = (300, 200)
    config.model.rpn.post_nms_top_k = (200, 100)
    config.model.rpn.samples = 128
    config.model.box_head.samples = 64
    config.model.box_head.width = 128
    return config
