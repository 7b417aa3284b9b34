"""Predictions over the mesh, and those of a few validation images, to be drawn."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from agvm_jax.training.experiment import Experiment
from agvm_jax.training.mesh import replica_axes
from agvm_jax.training.state import TrainState


def make_predict(predict: Callable, mesh: Mesh) -> Callable:
    """Compiles ``predict(params, model_state, batch)`` over the mesh.

    Every replica predicts its own rows of the batch; there are no collectives.
    """
    return jax.jit(
        jax.shard_map(
            predict,
            mesh=mesh,
            in_specs=(P(), P(), P(replica_axes(mesh))),
            out_specs=P(replica_axes(mesh)),
            check_vma=False,
        )
    )


def predicted_examples(
    experiment: Experiment, state: TrainState, count: int
) -> list[tuple[Any, Any]]:
    """Predicts ``count`` validation images a process, spread evenly over the split.

    All processes call this: a prediction is one program over all their devices, and a
    process that ran it alone would wait for the others for ever.

    Returns:
      (Batch, Predictions) of this process's rows, on the host.
    """
    some = experiment.data.validation(count * jax.process_count()) if count else ()
    return [
        (batch, jax.device_get(experiment.model.predict(state, batch)))
        for batch in some
    ]
