"""A device without enough memory: one sentence, and its remedy fits."""

import jax
import jax.numpy as jnp
import pytest
import toy_run
from toy_run import make_experiment, replaced

from agvm_jax.training.batching import BatchPlan, plan_batches
from agvm_jax.training.device_memory import (
    OutOfDeviceMemory,
    said_of,
    smaller_micro_batch,
    training,
)
from agvm_jax.training.loop import train_and_evaluate


def test_a_step_that_does_not_fit_names_the_micro_batch_to_try(tmp_path, monkeypatch):
    """The allocation is real: 16 TiB."""
    loss = toy_run.loss

    def greedy(params, model_state, batch, key):
        value, more = loss(params, model_state, batch, key)
        huge = jax.lax.optimization_barrier(value * jnp.ones((2**42,)))
        return value + 0 * huge[0], more

    monkeypatch.setattr(toy_run, "loss", greedy)
    with pytest.raises(OutOfDeviceMemory) as error:
        train_and_evaluate(make_experiment(tmp_path, micro_batches=2))
    message = str(error.value)
    assert "ran out of memory in a training step of 2 images at once" in message
    assert "try --config.micro_batch_size=1, which gives the same batches" in message
    assert "Out of memory allocating" in message and len(message.splitlines()) == 1


def test_an_evaluation_that_does_not_fit_names_its_own_key(tmp_path):
    experiment = make_experiment(tmp_path)

    def greedy(state):
        return jax.lax.optimization_barrier(jnp.ones((2**42,)))[0]

    experiment = replaced(experiment, "evaluation", run=greedy)
    with pytest.raises(OutOfDeviceMemory, match="a smaller --config.eval.batch_size"):
        train_and_evaluate(experiment)


def test_other_errors_of_the_device_stay_what_they_are():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        with said_of("a step"):
            raise jax.errors.JaxRuntimeError("INTERNAL: no memory of it")


@pytest.mark.parametrize(
    "batch, devices, micro, expected",
    [
        (512, 8, 0, 32),
        (512, 8, 16, 8),
        (24, 2, 0, 6),
        (30, 2, 0, 5),  # 7 does not divide 15
        (6, 3, 0, 1),
        (18, 3, 0, 3),  # two passes; 2 would give three
        (8, 8, 0, 0),
    ],
)
def test_the_micro_batch_to_try_fits(batch, devices, micro, expected):
    share = batch // devices
    size = micro or share
    plan = BatchPlan(batch, devices, share // size, size)
    smaller = smaller_micro_batch(plan)
    assert smaller == expected
    if smaller:
        new = plan_batches(batch, devices, smaller, estimator="halves")
        assert new.micro_batch_size == smaller <= size / 2
    else:
        assert "micro_batch_size" not in training(plan)
