"""Mask R-CNN ResNet-50 FPN on COCO 2017 with SGD: a row of the AGVM paper's tables.

    python train.py --config configs/mask_rcnn.py --config.data.root=COCO_FOLDER

The folder holds ``train2017/``, ``val2017/`` and ``annotations/`` of COCO 2017. As it
stands: batch 512 with SGD and AGVM. Other rows: --config.batch_size=32 (256, 1024), the
rate follows; --config.agvm.enabled=False for the baseline; --config.agvm.anchor=fpn
(rpn, box_head, mask_head) for Table 7.

Released code (paper's authors), mask AP: 33.9 without AGVM and 34.6 with it at batch
512, 34.4 and 35.0 at 256, 34.8 without it at 32; 16 epochs there. Paper: Table 7, mask
AP by anchor: backbone 33.9, FPN 33.3, box head 33.1, RPN 33.1, mask head 32.9; without
AGVM training at batch 1024 diverges. 14 epochs by its iteration counts, the rate
dropping after 9 and 12.

All of these start from ImageNet weights: --config.train.init_from says where they are.
Any number of devices will do: the micro-batches make up the global batch.
"""

from configs import faster_rcnn


def get_config():
    config = faster_rcnn.get_config()
    config.name = "mask_rcnn_r50_agvm-sgd_bs512"
    config.epochs = 14.0
    config.data.mask_size = 56  # twice the head's 28: a proposal covers a part of it
    config.model.detector = "mask_rcnn"
    config.optim.decay_at = (9 / 14, 12 / 14)
    return config
