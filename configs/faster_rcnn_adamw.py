"""Faster R-CNN ResNet-50 FPN on COCO 2017 with AdamW: the paper's AdamW rows.

    python train.py --config configs/faster_rcnn_adamw.py --config.data.root=COCO_FOLDER

Folder and weights are those of configs/faster_rcnn.py. As it stands: batch 512 with
AGVM. Other rows: --config.batch_size=32 (256, 1024, 1536), the rate follows by the
square root; --config.agvm.enabled=False for the baseline.

Paper: 12 epochs by its iteration counts, the rate dropping after 9. Its AdamW rates for
Faster R-CNN are not in the main text: 1e-4 at batch 32 is ours, in line with its two
rates for RetinaNet (0.001 at 4096, 0.0015 at 10240). So are the second drop, after 11,
and the weight decay. The released code has no configuration with AdamW: nothing is
clipped here, and AGVM starts when the warm-up ends.
"""

from configs import faster_rcnn


def get_config():
    config = faster_rcnn.get_config()
    config.name = "faster_rcnn_r50_agvm-adamw_bs512"
    config.epochs = 12.0
    config.optim.name = "adamw"
    config.optim.lr = 1e-4
    config.optim.lr_batch = 32
    config.optim.lr_rule = "sqrt"
    config.optim.weight_decay = 0.05
    config.optim.decay_at = (9 / 12, 11 / 12)
    config.optim.clip_norm = 0.0
    config.optim.clip_window = (0, -1)
    config.optim.clip_around_warmup = False
    config.agvm.start_delay = 0
    return config
