"""What a detection evaluator refuses, each in one sentence."""

import numpy as np
import pytest
from one_image import add_found, one_image

from agvm_jax.evaluation.detection import DetectionEvaluator
from agvm_jax.structures import Batch, Predictions


def test_unknown_images_repeated_images_and_strange_classes_are_named():
    evaluator = DetectionEvaluator(one_image([(0, 0, 9, 9)]), (1,), ("thing",))
    with pytest.raises(ValueError, match="image 77 is not in the ground truth"):
        add_found(evaluator, [], [], image_id=77)
    with pytest.raises(
        ValueError, match=r"image 5: .* class 1, but classes are 0\.\.0"
    ):
        add_found(evaluator, [(0, 0, 9, 9)], [0.9], classes=[1])
    assert evaluator.num_images == 0
    add_found(evaluator, [], [])
    with pytest.raises(ValueError, match="image 5 was added twice"):
        add_found(evaluator, [], [])
    evaluator.reset()
    with pytest.raises(ValueError, match="image 5 was added twice"):
        evaluator.add(
            Batch(None, np.full((2, 2), 100), np.array([5, 5]), *[None] * 4),
            Predictions(
                np.zeros((2, 1, 4)),
                *[np.zeros((2, 1), int)] * 2,
                np.zeros((2, 1), bool),
            ),
        )
    assert evaluator.num_images == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.pop("categories"), "no 'categories'"),
        (lambda t: t["images"][0].pop("height"), "image 5 needs id, height and width"),
        (lambda t: t["images"].append(dict(t["images"][0])), "lists image id 5 twice"),
        (
            lambda t: t["annotations"][0].update(image_id=8),
            "annotation 0 names image 8",
        ),
        (lambda t: t["annotations"][0].update(category_id=9), "category 9"),
        (
            lambda t: t["annotations"][0].update(bbox=[0, 0, np.nan, 1]),
            "annotation 0: bb",
        ),
        (lambda t: t["annotations"][0].update(bbox=[0, 0, 1]), "annotation 0: bb"),
        (lambda t: t["annotations"][0].pop("bbox"), "annotation 0 has no 'bbox'"),
        (lambda t: t["categories"].clear(), r"no category \[1\]"),
    ],
)
def test_a_broken_ground_truth_is_one_sentence(damage, message):
    truth = one_image([(0, 0, 9, 9)])
    damage(truth)
    with pytest.raises(ValueError, match=message):
        DetectionEvaluator(truth, (1,), ("thing",))


def test_ids_and_names_must_fit_each_other():
    truth = one_image([])
    with pytest.raises(ValueError, match="one name for each id"):
        DetectionEvaluator(truth, (1,), ("a", "b"))
    with pytest.raises(ValueError, match="repeat"):
        DetectionEvaluator(truth, (1, 1), ("a", "b"))
    with pytest.raises(ValueError, match="must not be empty"):
        DetectionEvaluator(truth, (), ())
