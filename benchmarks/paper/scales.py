"""How large a run is. "tiny" is what one CPU core does in a minute.

Everything that a run has besides method, rate, batch and seed stands here, once, so
that two cells differ in what their names say and in nothing else.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ml_collections import ConfigDict

from configs import base


@dataclasses.dataclass(frozen=True)
class Scale:
    """The size of a run, and its config.

    Attributes:
      name: the folder that its runs lie in.
      image_size: pixels of a side; images are square.
      max_objects: objects in the fullest image.
      class_names: of the generated shapes; one name makes all of them one class.
      train_images: distinct images there are; no run sees one twice.
      val_images: images of the validation set.
      images_seen: images a run trains on, at every batch size.
      micro_batches: batch size -> images a pass. A group of gradients, and what
        BatchNorm takes its statistics over. Batches not listed take 64, or a half.
      overrides: dotted keys of configs/base.py -> values.
      pipelines: name of another detector or backbone -> what it overrides besides.
    """

    name: str
    image_size: int
    max_objects: int
    class_names: tuple[str, ...]
    train_images: int
    val_images: int
    images_seen: int
    micro_batches: Mapping[int, int]
    overrides: Mapping[str, Any]
    pipelines: Mapping[str, Mapping[str, Any]]

    def steps(self, batch_size: int, options: Mapping[str, Any] | None = None) -> int:
        """Return the optimizer steps of a run.

        Args:
          batch_size: images a step.
          options: of the cell; "run.images" is instead of `images_seen`.
        """
        images = (options or {}).get("run.images", self.images_seen)
        return images // batch_size

    def micro_batch_size(self, batch_size: int) -> int:
        """Return the images of one forward and backward pass."""
        return self.micro_batches.get(batch_size, min(64, batch_size // 2))

    def config(
        self,
        batch_size: int,
        changes: Mapping[str, Any],
        options: Mapping[str, Any] | None = None,
    ) -> ConfigDict:
        """Return the config of a run.

        Args:
          batch_size: images a step.
          changes: dotted keys -> values, on top of this scale's own.
          options: of the cell; "run.pipeline" is a key of `pipelines`.

        Raises:
          ValueError: a key that configs/base.py does not have.
        """
        config = base.get_config()
        config.batch_size = batch_size
        config.micro_batch_size = self.micro_batch_size(batch_size)
        config.steps = self.steps(batch_size)
        config.image_size = (self.image_size, self.image_size)
        name = (options or {}).get("run.pipeline")
        pipeline = self.pipelines[name] if name else {}
        for key, value in {**self.overrides, **pipeline, **changes}.items():
            *sections, last = key.split(".")
            section = config
            for name in sections:
                section = section.get(name, {})
            if last not in section:
                raise ValueError(f"configs/base.py has no key {key!r}")
            section[last] = value
        return config


_RPN = {
    "model.rpn.pre_nms_top_k": (50, 50),
    "model.rpn.post_nms_top_k": (20, 20),
    "model.rpn.samples": 32,
    # A level each for P2 to P6.
    "model.anchors.sizes": (6.0, 12.0, 18.0, 26.0, 40.0),
}
TINY = Scale(
    name="tiny",
    image_size=32,
    max_objects=2,
    class_names=("shape",),
    train_images=262_144,
    val_images=1_000,
    images_seen=131_072,
    micro_batches=MappingProxyType({512: 64, 32: 16}),
    overrides=MappingProxyType(
        {
            "model.width": 0.25,
            "model.norm": "local",
            "model.fpn_channels": 32,
            "model.retina_head.num_convs": 1,
            "model.anchors.sizes": (8.0, 16.0, 24.0, 32.0, 48.0),
            "model.anchors.scales": 1,
            "model.retina_head.pre_nms_top_k": 50,
            "model.retina_head.max_detections": 10,
            "data.max_boxes": 2,
            # Rates in a cell's name are those of its batch, by no rule.
            "optim.lr_rule": "none",
            # The paper's Faster R-CNN: warm-up over 2 of 16 epochs, the rate falls
            # to a tenth after 9 and 14 of them.
            "optim.warmup": "linear",
            "optim.schedule": "step",
            "optim.decay_at": (9 / 16, 14 / 16),
            # The paper's average (tau 10, alpha 0.97) has a memory of 330 steps, a
            # tenth of its run at batch 512. A run here has a fourteenth of those
            # steps: measured at every one, the memory is 33 steps, an eighth.
            "agvm.tau": 1,
            "agvm.alpha": 0.97,
        }
    ),
    pipelines=MappingProxyType(
        {
            "faster_rcnn": MappingProxyType(
                {
                    "model.detector": "faster_rcnn",
                    **_RPN,
                    "model.box_head.samples": 16,
                    "model.box_head.width": 64,
                    "model.box_head.pre_nms_top_k": 50,
                    "model.box_head.max_detections": 10,
                }
            ),
            "uninet": MappingProxyType(
                {
                    "model.detector": "cascade_rcnn",
                    **_RPN,
                    "model.cascade_head.samples": 16,
                    "model.cascade_head.width": 64,
                    "model.cascade_head.pre_nms_top_k": 50,
                    "model.cascade_head.max_detections": 10,
                    "model.backbone": "uninet_b0",
                    "model.drop_path": 0.0,
                    "model.remat": False,
                    "optim.no_decay": ("norm", "gamma", "temperature"),
                }
            ),
            "swin": MappingProxyType(
                {
                    "model.backbone": "swin_t",
                    "model.drop_path": 0.0,
                    "optim.no_decay": ("norm", "bias_table"),
                }
            ),
        }
    ),
)
WARMUP_SHARE = 2 / 16
