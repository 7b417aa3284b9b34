"""Semantic FPN ResNet-50 on ADE20K (SceneParse150) with SGD, the AGVM paper's Table 2.

    python train.py --config configs/semantic_fpn.py --config.data.root=ADE20K_FOLDER

``python -m agvm_jax.data.tools.download ade20k ADE20K_FOLDER`` makes the folder. Add
--config.train.init_from=resnet50: all figures below start from ImageNet weights.

The paper's mIoU, from its page, and the steps of its runs, which are as many images as
160,000 steps of 32, 253 epochs. Nobody has run it here:

    batch    AGVM   MegDet   SAM     steps
    32       37.5   37.5     38.8   160000    --config.batch_size=32
    512      37.3   36.7     37.6    10000    as it stands
    1024     37.3   36.4     37.5     5000    --config.batch_size=1024
    2048     37.0   36.2     36.2     2500    --config.batch_size=2048

Its MegDet is synced BatchNorm, warm-up and the same rule for the rate:
--config.agvm.enabled=False. The yardstick of others: mmsegmentation's FPN ResNet-50,
160,000 steps of 16, mIoU 37.49.

Followed: the steps, the rule (the rate grows with the batch up to 256 images, with its
root above), polynomial decay. The paper does not tell the rate itself, the augmentation
or the network's widths; these are mmsegmentation's: 0.01 for 16 images, momentum 0.9,
decay 5e-4, power 0.9 down to a hundredth of the rate (theirs to 1e-4); a scale of 0.5
to 2 times a shorter side of 512 on crops of 512, of which no class may fill more than
0.75, flips and photometric distortion; 128 channels in the head. Evaluation is of whole
images with a shorter side of 512 pixels, which is its protocol, in a frame that is
turned for portraits; the longer side may have 2048 pixels there, and 1024 here, the
frame's.

The variants of configs/recipes.py are COCO's; ADE20K's training at several scales is
what stands here.

Not followed: BatchNorm's statistics are those of the images that all devices hold at
once, micro_batch_size of each; there is none in the head (theirs has synced BatchNorm
there, Kirillov et al. group norm, which is here) and no dropout.
"""

from configs import base

BATCH = 512
STEPS_AT_32 = 160_000


def get_config():
    config = base.get_config()
    config.name = "semantic_fpn_r50_agvm-sgd_bs512"
    config.batch_size = BATCH
    config.micro_batch_size = 4
    # Follows --config.batch_size; 253 epochs of 20,210 images.
    config.steps = STEPS_AT_32 * 32 // config.get_oneway_ref("batch_size")
    config.image_size = (512, 512)

    config.data.name = "ade20k"
    config.data.semantic = "all"
    config.data.semantic_stride = 1
    config.data.max_boxes = 1
    config.data.short_sides = (512,)
    config.data.long_side = 2048
    config.data.crop = "frame"
    config.data.scale_range = (0.5, 2.0)
    config.data.cat_max_ratio = 0.75
    config.data.brightness = 0.125
    config.data.contrast = 0.5
    config.data.saturation = 0.5
    config.data.hue = 0.05

    config.model.detector = "semantic_fpn"
    config.model.backbone = "resnet50"
    config.model.norm = "synced"
    config.model.dtype = "auto"

    config.optim.name = "sgd"
    config.optim.lr = 0.01
    config.optim.lr_batch = 16
    config.optim.lr_rule = "sqrt_above"
    config.optim.linear_limit = 256
    config.optim.momentum = 0.9
    config.optim.weight_decay = 5e-4
    config.optim.warmup = "exponential"
    config.optim.warmup_epochs = 1.0
    config.optim.schedule = "poly"
    config.optim.poly_power = 0.9
    config.optim.end_ratio = 0.01

    config.eval.image_size = (512, 1024)
    config.eval.short_side = 512
    config.eval.long_side = 1024
    config.eval.orient = True
    config.train.eval_every_epochs = 25.0
    config.train.checkpoint_every_epochs = 5.0
    return config
