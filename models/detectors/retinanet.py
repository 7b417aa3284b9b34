"""RetinaNet: backbone, feature pyramid and one head over all anchors.

Lin et al. 2017 ("Focal Loss for Dense Object Detection"); in every detail that changes
a number, torchvision's `retinanet_resnet50_fpn`, but that anchors stand on their cells
at any size of image, see `ops.anchors`.
"""

import jax
from flax import nnx

from agvm_jax.structures import Batch, Predictions

from ..fpn import FPN
from ..heads.detections import join
from ..heads.retina import RetinaHead
from .pyramid import PyramidDetector


class RetinaNet(PyramidDetector):
    """A one-stage detector; its modules are `backbone`, `fpn` and `head`.

    Args:
      backbone, fpn, images: as of `PyramidDetector`.
      head: reads every level of the pyramid.

    Raises:
      ValueError: the head's anchors do not fit the pyramid.
    """

    outputs = frozenset({"boxes"})

    def __init__(self, backbone: nnx.Module, fpn: FPN, head: RetinaHead, **images):
        super().__init__(backbone, fpn, **images)
        head.anchors.check_levels(fpn.levels)
        self.head = head

    def loss(
        self, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return the training loss and its parts "classification" and "box".

        Args:
          batch: images and annotations.
          key: decides what a backbone with drop path leaves out.
        """
        parts = self.head.loss(self.features(batch, train=True, key=key), batch)
        return sum(parts.values()), parts

    def predict(self, batch: Batch) -> Predictions:
        """Return the detections in `batch`; its annotations are not looked at.

        What several views have found goes through NMS together.
        """
        parts = []
        for view, features in self.looks(batch):
            found = self.head.candidates(features)
            boxes = view.back(found.boxes, batch.image_size)
            parts.append(found._replace(boxes=boxes))
        return self.head.thin_out(join(parts))
