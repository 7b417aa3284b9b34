"""A UniNet of a billion parameters on COCO 2017, batch 960: the paper's Table 8.

    python train.py --config configs/uninet_1b.py --config.data.root=COCO_FOLDER

Cascade Mask R-CNN with AGVM around AdamW, two images on each of 480 devices, 1,349
steps. The paper tells box AP 62.2 and mask AP 53.4 for it, and that AdamW alone and
PMD-LAMB diverge (--config.agvm.enabled=False, --config.optim.name=pmd_lamb
--config.optim.lr=0). Nobody has run it here; weights of this network are not public,
and from random ones these numbers are not to be expected.

From the paper: batch, steps, optimizer, the size of the network and that there are
masks. Everything else is our reading, since the text of that experiment is not to be
had: that the network is MetaNet-B15 (models/backbones/uninet.py) and the head a
cascade, as in detectors of that time with such figures; drop path, MetaNet's own for
detection; rate, its two drops and weight decay, those of configs/faster_rcnn_adamw.py;
what is spared from decay; the size of the images, without jitter.
"""

from configs import faster_rcnn_adamw


def get_config():
    config = faster_rcnn_adamw.get_config()
    config.name = "uninet-1b_agvm-adamw_bs960"
    config.batch_size = 960
    config.steps = 1349
    config.micro_batch_size = 2
    config.data.mask_size = 56
    config.data.orientation_group = 960  # 480 devices with two images each
    config.model.detector = "cascade_mask_rcnn"
    config.model.backbone = "uninet_1b"
    config.model.drop_path = 0.3
    config.model.dtype = "auto"
    config.optim.no_decay = ("norm", "gamma", "temperature")
    config.optim.decay_at = (9 / 12, 11 / 12)
    return config
