"""A device that is out of memory, in one sentence that says what to try."""

import contextlib
from collections.abc import Iterator

import jax

from agvm_jax.training.batching import BatchPlan

EVALUATION = "evaluation: try a smaller --config.eval.batch_size"
STATE = (
    "parameters and optimizer state: try a smaller model, or an optimizer with fewer"
    " moments such as --config.optim.name=sgd"
)


class OutOfDeviceMemory(ValueError):
    """What the config asks for does not fit into a device's memory."""


@contextlib.contextmanager
def said_of(what: str) -> Iterator[None]:
    """Turns the runtime's error, of compiling or of running, into a sentence.

    Args:
      what: what was computed, and what to try.

    Raises:
      OutOfDeviceMemory: the runtime said that its memory is exhausted.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        words = " ".join(str(error).split())
        # The second form is that of what was to be computed from the result.
        if not any(sign in words for sign in ("RESOURCE_EXHAUSTED", "Out of memory")):
            raise
        words = words[:160]
        raise OutOfDeviceMemory(
            f"a device ran out of memory in {what}. It said: {words}"
        ) from error


def training(plan: BatchPlan) -> str:
    """Says what a step takes in at once, and with how much less to try."""
    size = plan.micro_batch_size
    what = f"a training step of {size} images at once: try "
    if smaller := smaller_micro_batch(plan):
        what += (
            f"--config.micro_batch_size={smaller}, which gives the same batches in more"
            " passes, "
        )
    return what + (
        "a smaller --config.image_size, --config.model.dtype=bfloat16, or more devices"
    )


def smaller_micro_batch(plan: BatchPlan) -> int:
    """Returns the largest fitting micro-batch of at most half the size; 0 for none."""
    share = plan.batch_size // plan.replicas
    fitting = (
        size
        for size in range(plan.micro_batch_size // 2, 0, -1)
        # An odd number of replicas has two halves only in an even number of passes.
        if share % size == 0 and (plan.replicas % 2 == 0 or share // size % 2 == 0)
    )
    return next(fitting, 0)
