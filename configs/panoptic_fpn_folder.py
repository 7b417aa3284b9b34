"""A small Panoptic FPN on any COCO-format folder, trained from scratch.

    python train.py --config configs/panoptic_fpn_folder.py --config.data.root=FOLDER

configs/mask_rcnn_folder.py with a semantic head. Beside what that reads, the folder
holds ``panoptic_train.json`` and ``panoptic_val.json`` with the PNGs that they name in
``panoptic_train/`` and ``panoptic_val/``.
"""

from configs import mask_rcnn_folder


def get_config():
    config = mask_rcnn_folder.get_config()
    config.name = "panoptic_fpn_folder"
    config.data.semantic = "stuff"
    config.data.semantic_stride = 1
    config.model.detector = "panoptic_fpn"
    config.model.semantic_head.channels = 64
    config.model.semantic_head.loss_weight = 0.5
    return config
