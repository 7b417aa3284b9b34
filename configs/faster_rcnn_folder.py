"""A small Faster R-CNN on any folder of images with boxes, trained from scratch.

    python train.py --config configs/faster_rcnn_folder.py --config.data.root=FOLDER

The folder, the backbone, the schedule and the image size are those of
configs/coco_folder.py, which trains a RetinaNet.
"""

from configs import coco_folder


def get_config():
    config = coco_folder.get_config()
    config.name = "faster_rcnn_folder"

    config.model.detector = "faster_rcnn"
    config.model.anchors.sizes = (16.0, 32.0, 64.0, 128.0, 256.0)
    config.model.anchors.scales = 1
    config.model.rpn.pre_nms_top_k = (500, 300)
    config.model.rpn.post_nms_top_k = (300, 150)
    config.model.rpn.samples = 128
    config.model.box_head.samples = 128
    config.model.box_head.width = 128
    return config
