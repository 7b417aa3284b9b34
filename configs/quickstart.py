"""A small RetinaNet on generated shapes: from nothing to drawn boxes on a laptop.

    python train.py --config configs/quickstart.py

RetinaNet ResNet-18 FPN with AGVM around AdamW, 128 px, trained from scratch. No
accelerator and no download.

Measured here, on 2 CPU cores that other work shared: 7 epochs reached AP50 75.5 (AP
56.4) in about 5 and a half minutes. Runs differ: two runs of 6 epochs reached AP50 60.4
and 56.4, the second in 4 min 54 s.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.name = "quickstart"
    config.batch_size = 8
    config.epochs = 8.0
    config.image_size = (128, 128)

    config.data.name = "shapes"
    config.data.shapes.train_images = 4096

    config.model.width = 0.25
    config.model.fpn_channels = 64
    config.model.head_convs = 2
    config.model.anchor_sizes = (16.0, 32.0, 64.0, 96.0, 128.0)

    config.optim.name = "adamw"
    config.optim.lr = 1e-3
    config.optim.lr_batch = 8
    config.optim.weight_decay = 0.05
    config.optim.schedule = "cosine"
    config.agvm.tau = 5

    config.train.eval_every_epochs = 1.0
    config.train.checkpoint_every_epochs = 1.0
    config.eval.batch_size = 32
    return config
