"""The smallest run that goes through everything, for tests; it learns next to nothing.

python train.py --config configs/tiny.py
"""

from configs import quickstart


def get_config():
    config = quickstart.get_config()
    config.name = "tiny"
    config.batch_size = 8
    config.steps = 12
    config.image_size = (64, 64)
    config.data.shapes.train_images = 64
    config.data.shapes.val_images = 8
    config.data.shapes.image_size = (64, 64)
    config.data.shapes.max_objects = 3
    config.data.max_boxes = 8
    config.model.width = 0.125
    config.model.fpn_channels = 16
    config.model.retina_head.num_convs = 1
    config.model.retina_head.pre_nms_top_k = 50
    config.model.retina_head.max_detections = 10
    config.model.box_head.pre_nms_top_k = 50
    config.model.box_head.max_detections = 10
    config.optim.warmup_steps = 2
    config.agvm.tau = 1
    config.train.log_every_steps = 1
    config.train.eval_every_epochs = 1.0
    config.train.checkpoint_every_epochs = 0.5
    config.eval.batch_size = 1
    config.eval.draw_images = 2
    return config
