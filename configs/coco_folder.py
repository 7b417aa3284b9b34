"""RetinaNet on any folder of images with boxes, trained from scratch.

    python train.py --config configs/coco_folder.py --config.data.root=FOLDER

The folder is of COCO's format, ``instances_train.json`` and ``instances_val.json``
beside ``train/`` and ``val/`` (other names: --config.data.train_annotations=..., and so
on), or of YOLO's, or of another that docs/data.md lists: which one is found out, and
said.

A small ResNet-18 FPN for a few hundred images and a CPU: set the model, the image size
and the epochs to what you have.

Measured here, on 2 CPU cores that other work shared, with the BCCD blood cells (205
images to train on, 640x480): 2600 steps in 25 minutes, AP 54.3, AP50 86.5 on its 159
validation images. docs/results.md has the curves and images.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.name = "coco_folder"
    config.batch_size = 8
    config.epochs = 100.0
    config.image_size = (256, 320)

    config.data.name = "auto"
    config.data.scale_range = (0.8, 1.25)

    config.model.width = 0.25
    config.model.fpn_channels = 64
    config.model.retina_head.num_convs = 2
    config.model.anchors.sizes = (24.0, 48.0, 96.0, 160.0, 256.0)

    config.optim.name = "adamw"
    config.optim.lr = 1e-3
    config.optim.lr_batch = 8
    config.optim.weight_decay = 0.05
    config.optim.schedule = "cosine"
    config.agvm.tau = 5

    config.train.eval_every_epochs = 10.0
    config.train.checkpoint_every_epochs = 5.0
    return config
