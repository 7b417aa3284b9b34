"""A small Mask R-CNN on any folder of images with masks, trained from scratch.

    python train.py --config configs/mask_rcnn_folder.py --config.data.root=FOLDER

configs/faster_rcnn_folder.py with a mask head. The annotations need a `segmentation`
each, polygons or run lengths.
"""

from configs import faster_rcnn_folder


def get_config():
    config = faster_rcnn_folder.get_config()
    config.name = "mask_rcnn_folder"
    config.data.mask_size = 28
    config.model.detector = "mask_rcnn"
    config.model.mask_head.num_convs = 2
    return config
