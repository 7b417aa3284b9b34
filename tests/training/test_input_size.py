"""The size of an evaluation: that of training, or a published protocol's."""

import numpy as np
import pytest

from agvm_jax.data.dataset import open_dataset
from agvm_jax.data.pipeline import eval_batches
from agvm_jax.evaluation.evaluator import evaluate
from agvm_jax.evaluation.tasks import TASKS, Settings
from agvm_jax.structures import Predictions
from agvm_jax.training.input_size import evaluation_size
from configs import base


@pytest.fixture
def config():
    config = base.get_config()
    config.image_size = (64, 96)
    config.data.short_sides, config.data.long_side = (40, 48), 90
    return config


def test_without_settings_it_is_that_of_training(config):
    assert evaluation_size(config) == ((64, 96), config.data)
    assert str(evaluation_size(config)) == (
        "64 x 96 px, shorter side 48, longer side at most 90"
    )


def test_each_setting_counts_for_itself_and_training_keeps_its_own(config):
    config.eval.image_size = (128,)
    size = evaluation_size(config)
    assert size == ((128, 128), config.data)
    config.eval.short_side, config.eval.long_side = 100, 120
    size = evaluation_size(config)
    assert (size.data_config.short_sides, size.data_config.long_side) == ((100,), 120)
    assert config.data.short_sides == (40, 48) and config.data.long_side == 90
    config.data.short_sides, config.data.long_side = (), 0
    config.eval.short_side = config.eval.long_side = 0
    assert str(evaluation_size(config)) == "128 x 128 px"


def test_batches_have_the_size_of_the_protocol(config, tmp_path):
    config.data.update(cache_dir=str(tmp_path), num_threads=1)
    config.data.shapes.update(train_images=1, val_images=1, image_size=(32, 48))
    config.eval.update(image_size=(128, 128), short_side=80, long_side=105)
    source = open_dataset(config.data).val
    (batch,) = eval_batches(source, batch_size=1, **evaluation_size(config)._asdict())
    assert batch.image.shape == (1, 128, 128, 3)
    np.testing.assert_array_equal(batch.image_size, [[70, 105]])  # 48 becomes 105


def test_perfect_boxes_are_perfect_at_any_size(config, tmp_path):
    config.data.update(cache_dir=str(tmp_path), num_threads=1)
    config.data.shapes.update(train_images=1, val_images=3, image_size=(32, 48))
    dataset = open_dataset(config.data)
    for size, short in (((), 0), ((128, 128), 80), ((40, 200), 33)):
        config.eval.update(image_size=size, short_side=short)
        batches = eval_batches(
            dataset.val, batch_size=3, **evaluation_size(config)._asdict()
        )
        numbers = evaluate(
            lambda batch: Predictions(
                batch.boxes, batch.valid.astype(float), batch.classes, batch.valid
            ),
            batches,
            TASKS["detection"].evaluator(dataset, Settings()),
        )
        assert numbers["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("image_size", (16, 64), "eval.image_size=.* at least 32"),
        ("image_size", (64, 64, 3), "not a .height, width."),
        ("short_side", -1, "eval.short_side=-1 must be a number of pixels, or 0"),
        ("long_side", -5, "eval.long_side=-5"),
    ],
)
def test_sizes_that_cannot_be_are_refused_with_their_key(config, key, value, words):
    config.eval[key] = value
    with pytest.raises(ValueError, match=words):
        evaluation_size(config)


def test_a_frame_may_be_turned_in_evaluation_alone(config, tmp_path):
    config.data.update(cache_dir=str(tmp_path), num_threads=1)
    config.data.shapes.update(train_images=1, val_images=1, image_size=(96, 48))
    config.eval.update(image_size=(64, 128), short_side=50, long_side=128, orient=True)
    evaluated = evaluation_size(config)
    assert str(evaluated) == (
        "64 x 128 px or turned, shorter side 50, longer side at most 128"
    )
    assert config.data.orientation_group == 0
    source = open_dataset(config.data).val
    (batch,) = eval_batches(source, batch_size=1, **evaluated._asdict())
    assert batch.image.shape == (1, 128, 64, 3)
    np.testing.assert_array_equal(batch.image_size, [[100, 50]])
