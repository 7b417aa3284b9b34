"""A small Semantic FPN on a folder of images and label PNGs, trained from scratch.

    python train.py --config configs/semantic_fpn_folder.py --config.data.root=FOLDER

The folder holds ``train/``, ``val/``, and the class numbers of their pixels as PNG of
the same names in ``train_labels/`` and ``val_labels/``; ``classes.txt`` names the
classes, one a line. Other names: `data.train_labels` and the keys beside it; values
without a class: `data.label_void`.

Sized for a CPU and a few hundred images; docs/results.md has a run of 24 epochs on
CamVid.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.name = "semantic_fpn_folder"
    config.batch_size = 8
    config.epochs = 60.0
    config.image_size = (192, 256)

    config.data.name = "label_folder"
    config.data.semantic = "all"
    config.data.semantic_stride = 2
    config.data.max_boxes = 1
    config.data.crop = "frame"
    config.data.short_sides = (240,)
    config.data.scale_range = (0.75, 1.5)
    config.data.cat_max_ratio = 0.75
    config.data.brightness = 0.125
    config.data.contrast = 0.3
    config.data.saturation = 0.3

    config.model.detector = "semantic_fpn"
    config.model.backbone = "resnet18"
    config.model.width = 0.5
    config.model.fpn_channels = 64
    config.model.semantic_head.channels = 64

    config.optim.name = "adamw"
    config.optim.lr = 1e-3
    config.optim.lr_batch = 8
    config.optim.weight_decay = 0.05
    config.optim.schedule = "poly"
    config.agvm.tau = 5

    config.eval.image_size = (256, 352)
    config.eval.short_side = 240
    config.eval.orient = True
    config.eval.batch_size = 8
    config.train.eval_every_epochs = 10.0
    config.train.checkpoint_every_epochs = 10.0
    return config
