"""RetinaNet ResNet-18 at batch 10240: the AGVM paper's Table 5.

    python train.py --config configs/retinanet_10k.py --config.data.root=COCO_FOLDER

The folder holds ``train2017/``, ``val2017/`` and ``annotations/`` of COCO 2017;
``python -m agvm_jax.data.tools.download coco COCO_FOLDER`` makes it.

Paper: RetinaNet ResNet-18, COCO 2017, AdamW, learning rate 0.0015, 24 epochs of 12
steps, tau 5, AGVM.

Any number of devices will do: the micro-batches make up the global batch. The rate is
the paper's for this batch; for another batch size it follows by the square root.

Variants (configs/recipes.py) by --config configs/retinanet_10k.py:NAME, and box AP of
detectron2 for batch 16, SGD and a ResNet-50 (--config.model.backbone=resnet50):
1x_ms 37.4, 3x_ms 38.7; for lsj it has none.

Images keep their ratio: the shorter side is 800 pixels, the longer one at most 1333
(the authors' code; flips, nothing else). Of 118,287 images the 117,266 with an object
are shown. Landscape and portrait images have a frame
each, 512 of a kind in a row; so devices x micro_batch_size must divide 512.
"""

from configs import base, recipes


def get_config(variant=""):
    config = base.get_config()
    config.name = "retinanet_r18_agvm-adamw_bs10240"
    config.batch_size = 10240
    config.micro_batch_size = 16
    config.epochs = 24.0
    config.image_size = (800, 1344)

    config.data.name = "coco"
    config.data.short_sides = (800,)
    config.data.long_side = 1333
    config.data.filter_empty = True
    config.data.orientation_group = 512

    config.model.backbone = "resnet18"
    config.model.norm = "synced"
    config.model.dtype = "auto"

    config.optim.name = "adamw"
    config.optim.lr = 0.0015
    config.optim.lr_batch = 10240
    config.optim.lr_rule = "sqrt"
    config.optim.weight_decay = 0.05
    config.optim.warmup = "exponential"
    config.optim.warmup_epochs = 2.0
    config.optim.schedule = "step"
    config.optim.decay_at = (16 / 24, 22 / 24)

    config.agvm.tau = 5

    config.train.log_every_steps = 1
    config.train.eval_every_epochs = 4.0
    config.train.checkpoint_every_epochs = 1.0
    return recipes.apply(config, variant)
