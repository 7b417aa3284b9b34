"""COCO's 80 classes out of the 91 ids that published detectors have."""

import numpy as np
from small_weights import as_initialised, make_detector, shapes_of, whole_detector

from models.weights.coco import IDS, select_coco_classes


def test_of_cocos_91_ids_the_80_with_objects_are_taken(load):
    assert len(IDS) == 80 and IDS[:12] == (*range(1, 12), 13) and IDS[-1] == 90
    detector = make_detector(classes=80)
    tensors = whole_detector(classes=91)
    weights = load(tensors, "all", shapes_of(detector))
    assert weights.report == (
        "weights.npz: 124 of 124 arrays; the 80 classes of COCO out of 91 ids"
    )
    params, _ = weights.put_into(*as_initialised(shapes_of(detector)))
    bias = np.asarray(params["head"]["class_logits"]["bias"]).reshape(9, 80)
    theirs = tensors["head.classification_head.cls_logits.bias"].reshape(9, 91)
    np.testing.assert_array_equal(bias[:, 0], theirs[:, 1])  # person
    np.testing.assert_array_equal(bias[:, 11], theirs[:, 13])  # stop sign
    np.testing.assert_array_equal(bias[:, 79], theirs[:, 90])  # toothbrush


def test_heads_with_a_background_keep_it_first():
    def numbered(*rest):
        by_class = np.arange(91.0).reshape(91, *(1 for _ in rest))
        return np.broadcast_to(by_class, (91, *rest)).reshape(-1, *rest[1:])

    names = {
        "roi_heads.box_predictor.cls_score.weight": (1, 6),
        "roi_heads.box_predictor.bbox_pred.bias": (4,),
        "roi_heads.mask_predictor.mask_fcn_logits.weight": (1, 6, 1, 1),
        "roi_heads.box_head.fc6.bias": (1,),
    }
    selected = select_coco_classes({n: numbered(*rest) for n, rest in names.items()})
    scores, boxes, masks, other = selected.values()
    assert scores.shape == (81, 6) and masks.shape == (81, 6, 1, 1)
    assert scores[:3, 0].tolist() == [0, 1, 2] and scores[12, 0] == 13
    assert masks[-1].max() == 90
    assert boxes.reshape(81, 4)[12].tolist() == [13] * 4
    assert other.shape == (91,)
