"""From a config to the step that it trains with: what needs no data and no device.

`experiment` trains with it; `ahead` compiles it for machines that are not here.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from agvm_jax.optim.modules import label_tree, module_names
from agvm_jax.optim.noise import noise_init
from agvm_jax.training import mesh as mesh_lib
from agvm_jax.training.modulation_settings import modules_of
from agvm_jax.training.partition import Partition
from agvm_jax.training.resolve import Resolved
from agvm_jax.training.sharded_step import make_step
from agvm_jax.training.state import TrainState, create_state
from agvm_jax.training.step import TrainStep
from models.functional import Detector
from models.stack import has_layer_axis
from trained import detector_of


@dataclasses.dataclass(frozen=True)
class Planned:
    """A run before its first step.

    Attributes:
      detector: what is trained.
      partition: where its state lies.
      shapes: (params, model_state), of the detector's initial weights.
      step: the train step.
      initial_state: (params, model_state) -> the state before the first step.
    """

    detector: Detector
    partition: Partition
    shapes: tuple[Any, Any]
    step: TrainStep
    initial_state: Callable[[Any, Any], TrainState]

    @property
    def state_shapes(self) -> TrainState:
        """The shapes of the state, with their shardings."""
        return self.partition.like(jax.eval_shape(self.initial_state, *self.shapes))


def plan_training(
    config: ConfigDict,
    resolved: Resolved,
    devices: Sequence[Any],
    *,
    platform: str,
    num_classes: int,
    num_labels: int,
    num_images: int,
) -> Planned:
    """Returns the step of a config, and the state that it works on. Nothing runs.

    Args:
      config: the whole of it, with sizes of anchors.
      resolved: what follows from it.
      devices: real ones, or those of a machine that is not here.
      platform: what JAX calls them: "cpu", "gpu" or "tpu".
      num_classes: of boxes.
      num_labels: of pixels, 0 where they are not learned.
      num_images: of the training split.

    Raises:
      ValueError: something in the config does not fit together.
    """
    mesh = mesh_lib.data_mesh(devices, resolved.sharding.fsdp_size)
    partition = Partition(mesh, resolved.sharding.mode, layered=has_layer_axis)
    detector = detector_of(
        config,
        num_classes=num_classes,
        num_labels=num_labels,
        dtype=resolved.dtype,
        platform=platform,
        axes=mesh_lib.replica_axes(mesh),
        freeze_at=resolved.freeze_at,
    )
    shapes = jax.eval_shape(detector.init, jax.random.key(config.seed))
    params, _ = shapes
    jax.eval_shape(resolved.recipe.tx.init, params)  # so that its errors are said now
    labels = label_tree(params, modules_of(config.agvm))

    def initial_state(params: Any, model_state: Any) -> TrainState:
        return create_state(
            params,
            model_state,
            resolved.recipe.tx.init(params),
            noise_init(module_names(labels)),
            config.seed,
            average=config.train.ema_decay > 0,
        )

    step = make_step(
        detector.loss,
        resolved.recipe,
        resolved.plan,
        partition,
        labels,
        num_images,
        resolved.dtype,
    )
    return Planned(detector, partition, shapes, step, initial_state)
