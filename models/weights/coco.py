"""COCO's classes in torchvision's detectors: 91 ids, of which 80 have objects.

A data set numbers the classes it has, 0 to 79, in the order of their ids. Torchvision's
published detectors have a score for each id from 0 to 90; the eleven that were never
used, and 0, are left out here.
"""

from collections.abc import Mapping

import numpy as np

_ABSENT = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
IDS = tuple(i for i in range(1, 91) if i not in _ABSENT)
_TORCHVISION_CLASSES = 91

# Module -> numbers a class, for heads that have the background as class 0.
_WITH_BACKGROUND = {
    "roi_heads.box_predictor.cls_score": 1,
    "roi_heads.box_predictor.bbox_pred": 4,
    "roi_heads.mask_predictor.mask_fcn_logits": 1,
}
_RETINANET = "head.classification_head.cls_logits"


def select_coco_classes(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return torchvision's tensors with 80 classes in the place of 91.

    Tensors that are not of 91 classes are returned as they are.
    """
    return {name: _select(name, tensor) for name, tensor in tensors.items()}


def _select(name: str, tensor: np.ndarray) -> np.ndarray:
    module = name.rpartition(".")[0]
    rows = np.shape(tensor)[0] if np.ndim(tensor) else 0
    rest = np.shape(tensor)[1:]
    if module in _WITH_BACKGROUND:
        numbers = _WITH_BACKGROUND[module]
        if rows != _TORCHVISION_CLASSES * numbers:
            return tensor
        by_class = tensor.reshape(_TORCHVISION_CLASSES, numbers, *rest)
        return by_class[[0, *IDS]].reshape(-1, *rest)
    if module == _RETINANET and rows and rows % _TORCHVISION_CLASSES == 0:
        by_anchor = tensor.reshape(-1, _TORCHVISION_CLASSES, *rest)
        return by_anchor[:, IDS].reshape(-1, *rest)
    return tensor
