"""How a batch is divided, and what is said when it cannot be."""

import pytest

from agvm_jax.training.batching import plan_batches


@pytest.mark.parametrize(
    "batch, devices, micro, estimator, expected",
    [
        (16, 1, 0, None, (1, 16)),
        (16, 1, 0, "halves", (2, 8)),  # AGVM needs two groups on one device
        (16, 8, 0, "halves", (1, 2)),  # eight replicas are groups enough
        (10240, 1, 16, "halves", (640, 16)),
        (10240, 512, 10, "halves", (2, 10)),
        (10240, 1024, 16, "norms", (1, 10)),  # a share smaller than a micro-batch
        (6, 3, 1, "halves", (2, 1)),  # odd replicas, even micro-batches
        (3, 3, 0, "norms", (1, 1)),
    ],
)
def test_every_image_is_in_exactly_one_micro_batch(
    batch, devices, micro, estimator, expected
):
    plan = plan_batches(batch, devices, micro, estimator=estimator)
    assert (plan.micro_batches, plan.micro_batch_size) == expected
    assert plan.replicas * plan.micro_batches * plan.micro_batch_size == batch


@pytest.mark.parametrize(
    "batch, devices, micro, estimator, words",
    [
        (100, 8, 0, None, ["100", "8 devices", "96 or 104"]),
        (4, 8, 0, None, ["use 8"]),
        (64, 2, 12, None, ["micro_batch_size=12", "32 images", "use 8"]),
        (7, 1, 0, "halves", ["two groups", "even batch_size"]),
        (9, 3, 0, "halves", ["even number", "agvm.estimator=norms"]),
        (0, 1, 0, None, ["positive"]),
    ],
)
def test_a_division_with_a_remainder_names_a_remedy(
    batch, devices, micro, estimator, words
):
    with pytest.raises(ValueError) as error:
        plan_batches(batch, devices, micro, estimator=estimator)
    for word in words:
        assert word in str(error.value)
