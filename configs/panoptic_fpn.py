"""Panoptic FPN ResNet-50 on COCO panoptic with SGD, the AGVM paper's Table 2.

    python train.py --config configs/panoptic_fpn.py --config.data.root=COCO_FOLDER

The folder holds ``train2017/``, ``val2017/`` and ``annotations/`` of COCO 2017 with
``panoptic_{train,val}2017.json`` and their PNGs. Add --config.train.init_from=resnet50:
all figures below start from ImageNet weights.

The paper's PQ, from its page, and the steps of its runs, 14 epochs of the 117,266
images that have objects. Nobody has run it here:

    batch    AGVM   MegDet   SAM    steps
    32       38.9   38.9     39.0   51310    --config.batch_size=32
    256      39.3   39.2     39.3    6426    --config.batch_size=256
    512      39.5   38.7     38.7    3220    as it stands
    1024     38.8   NaN      NaN     1610    --config.batch_size=1024

Its MegDet is synced BatchNorm, warm-up and the same rule for the rate:
--config.agvm.enabled=False. The yardstick of others: detectron2's Panoptic FPN
ResNet-50, 90,000 steps of 16: PQ 39.4, box AP 37.6, mask AP 34.7.

Followed: 14 epochs, drops after 9 and 12; 0.02 for 16 images, the root above 128, as
the released code has for Mask R-CNN. The paper does not tell the weights of the losses;
these are detectron2's, 1 for boxes and masks and 0.5 for pixels, as are the thresholds
of the merge. The semantic head learns COCO's 53 kinds of stuff and one class for all
things, from labels of every pixel.

Variants (configs/recipes.py) by --config configs/panoptic_fpn.py:NAME, and detectron2's
PQ, box and mask AP for batch 16: 1x_ms 39.4, 37.6, 34.7; 3x_ms 41.5, 40.0, 36.5; for
lsj it has none.

Sizes, flips, frozen parts and what else is not followed: configs/mask_rcnn.py.
"""

from configs import mask_rcnn, recipes


def get_config(variant=""):
    config = mask_rcnn.get_config()
    config.name = "panoptic_fpn_r50_agvm-sgd_bs512"
    config.epochs = 14.0
    config.data.filter_empty = True
    config.data.semantic = "stuff"
    config.data.semantic_stride = 1
    config.model.detector = "panoptic_fpn"
    config.model.semantic_head.loss_weight = 0.5
    config.optim.decay_at = (9 / 14, 12 / 14)
    return recipes.apply(config, variant)
