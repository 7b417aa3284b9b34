"""Semantic FPN and Panoptic FPN learn four images by heart, judged as in a run."""

import importlib

import jax
import jax.numpy as jnp
import optax
import pytest

from agvm_jax.data import eval_batches, open_dataset
from agvm_jax.evaluation.evaluator import evaluate
from agvm_jax.evaluation.metrics.panoptic_merge import MergeRule
from agvm_jax.evaluation.tasks import Settings, choose_task
from models.build import build_detector


def overfit(name, folder, side, steps, rate):
    """Numbers after so many steps of Adam on the four validation images."""
    config = importlib.import_module(f"configs.{name}").get_config()
    config.data.update(cache_dir=str(folder), max_boxes=3, num_threads=1)
    config.data.shapes.update(
        train_images=1, val_images=4, image_size=(side, side), max_objects=3
    )
    config.model.update(width=0.125, fpn_channels=32, norm="frozen")
    dataset = open_dataset(config.data)
    semantic = config.data.semantic
    detector = build_detector(
        config.model,
        num_classes=len(dataset.class_names),
        num_labels=len(dataset.label_names(semantic)),
        image_size=(side, side),
    )
    task = choose_task(detector.outputs)
    task.check_data(config.data, config.model.detector)
    evaluator = task.evaluator(
        dataset, Settings(semantic, merge=MergeRule(**config.eval.panoptic))
    )
    (batch,) = eval_batches(
        dataset.val, image_size=side, batch_size=4, data_config=config.data
    )
    on_device = jax.tree.map(jnp.asarray, batch)
    tx = optax.adam(optax.cosine_decay_schedule(rate, steps))
    params, model_state = detector.init(jax.random.key(0))
    opt_state = tx.init(params)

    @jax.jit
    def step(params, opt_state, key):
        gradient, (_, parts) = jax.grad(detector.loss, has_aux=True)(
            params, model_state, on_device, key
        )
        updates, opt_state = tx.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, parts

    for number in range(steps):
        params, opt_state, parts = step(params, opt_state, jax.random.key(number))
    predict = jax.jit(detector.predict)
    numbers = evaluate(lambda b: predict(params, model_state, b), [batch], evaluator)
    return task, numbers, parts


@pytest.mark.slow  # a minute
def test_semantic_fpn_over_fits_four_images(tmp_path):
    task, numbers, parts = overfit("semantic_fpn_shapes", tmp_path, 96, 160, 6e-3)
    assert task.name == "semantic" and set(parts) == {"semantic"}
    assert numbers["mIoU"] > 0.95


@pytest.mark.slow  # minutes
@pytest.mark.timeout(900)
def test_panoptic_fpn_over_fits_four_images(tmp_path):
    task, numbers, parts = overfit("panoptic_fpn_shapes", tmp_path, 128, 120, 3e-3)
    assert task.name == "panoptic" and {"mask", "box", "semantic"} <= set(parts)
    assert numbers["PQ"] > 0.8 and numbers["PQ_things"] > 0.8
