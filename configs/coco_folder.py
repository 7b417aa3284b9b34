"""RetinaNet on any COCO-format folder, trained from scratch.

    python train.py --config configs/coco_folder.py --config.data.root=FOLDER

The folder holds ``instances_train.json`` and ``instances_val.json`` beside ``train/``
and ``val/``; other names: --config.data.train_annotations=..., and so on.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.name = "coco_folder"
    config.batch_size = 16
    config.epochs = 60.0
    config.image_size = (256, 320)

    config.data.name = "coco_folder"
    config.data.scale_range = (0.8, 1.25)

    config.model.width = 0.5
    config.model.fpn_channels = 96
    config.model.head_convs = 2
    config.model.anchor_sizes = (24.0, 48.0, 96.0, 160.0, 256.0)

    config.optim.name = "adamw"
    config.optim.lr = 1e-3
    config.optim.lr_batch = 16
    config.optim.weight_decay = 0.05
    config.optim.schedule = "cosine"
    config.agvm.tau = 5

    config.train.eval_every_epochs = 5.0
    config.train.checkpoint_every_epochs = 5.0
    return config
