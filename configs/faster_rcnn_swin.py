"""Faster R-CNN Swin-T FPN on COCO 2017 with AdamW: the paper's Swin-T rows.

    python train.py --config configs/faster_rcnn_swin.py --config.data.root=COCO_FOLDER

The folder is that of configs/faster_rcnn.py; add --config.train.init_from=swin_t for
ImageNet weights, which the paper starts from. As it stands: batch 512 with AGVM. Other
rows: --config.batch_size=32 (256, 1024), the rate follows by the square root;
--config.agvm.enabled=False for the baseline; --config.model.detector=mask_rcnn
--config.data.mask_size=56 for masks.

Paper: 13 epochs by its iteration counts, the rate dropping after 9. Its rates for
Swin-T are not in the main text: those of configs/faster_rcnn_adamw.py stand here, the
second drop after 12 is ours; weight decay, what is spared from it (norms and relative
position biases) and drop path are those of the 1x schedule of the Swin authors' own
detectors.
"""

from configs import faster_rcnn_adamw


def get_config():
    config = faster_rcnn_adamw.get_config()
    config.name = "faster_rcnn_swin-t_agvm-adamw_bs512"
    config.epochs = 13.0
    config.model.backbone = "swin_t"
    config.model.drop_path = 0.1
    config.optim.no_decay = ("norm", "bias_table")
    config.optim.decay_at = (9 / 13, 12 / 13)
    return config
