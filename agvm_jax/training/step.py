"""One optimizer step: local gradients, groups, one reduction, one update.

A step is two pure functions under `jax.shard_map`:

* ``accumulate`` takes one micro-batch. Every replica computes the gradient of its own
  images and adds it to its own sums. Nothing is sent, except by synced BatchNorm.
* ``apply`` ends the step. The replicas' sums become the mean gradient and phi (the only
  collectives of a step, in `optim.reduction`), the optimizer turns them into an update,
  and the new state comes out; or the old one with its counts moved on, when anything
  was not finite.

What ends a step exists twice, with the measurement of phi and without, and the host
picks by the step's number: between two measurements of the paper's halves nothing is
paid for them. With one micro-batch `accumulate` and `apply` are one program. With
several, the batches are fed one by one, so neither the host nor a device ever holds
more than a micro-batch of images: batch 10240 at full resolution runs on a laptop,
slowly. (A `lax.scan` over micro-batches would need the whole share of images on the
device, 34 GB for that batch.)

What a replica carries between micro-batches has a leading axis of one entry a replica,
split over the mesh.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from agvm_jax.optim.baselines import sam_value_and_grad
from agvm_jax.optim.groups import GroupPlan
from agvm_jax.optim.reduction import mean_gradients
from agvm_jax.optim.replicas import value_and_local_grad
from agvm_jax.training.batching import BatchPlan
from agvm_jax.training.mesh import replica_axes
from agvm_jax.training.recipes import Recipe
from agvm_jax.training.state import TrainState
from agvm_jax.training.update import Reduced, updated

LossFn = Callable[[Any, Any, Any, jax.Array], tuple[jax.Array, tuple[Any, dict]]]


class Carry(NamedTuple):
    """What one replica has gathered so far in a step.

    Attributes:
      groups: gradient sums and square sums (`optim.groups`).
      model_state: BatchNorm statistics after the micro-batches so far.
      loss: float32, sum of losses.
      parts: dict of float32, sums of the loss parts.
    """

    groups: Any
    model_state: Any
    loss: jax.Array
    parts: dict[str, jax.Array]


class TrainStep:
    """The compiled train step. Call it with a state and an iterator of batches.

    Args:
      loss: ``(params, model_state, batch, key) -> (loss, (model_state, parts))``, the
        mean over the images of ``batch``. ``model_state`` comes out the same on every
        replica: what each computes for itself, such as the statistics of a local
        BatchNorm, the loss averages over the data axis (`models.layers.BatchNorm`).
      recipe: the optimizer; its ``tx`` is given the mean gradient, and phi when it
        measures.
      plan: how a batch is shared out.
      mesh: the mesh; its axes together are those of the replicas.
      labels: the module of every parameter (`optim.modules.label_tree`).
      num_images: images in the training set, for the variance of eq. 3; None if there
        is no end of them.
    """

    def __init__(
        self,
        loss: LossFn,
        recipe: Recipe,
        plan: BatchPlan,
        mesh: Mesh,
        labels: Any,
        num_images: int | None = None,
    ):
        self._loss = loss
        self._recipe = recipe
        preconditioned = recipe.agvm is not None and recipe.agvm.precondition
        self._weights = recipe.weights if preconditioned else lambda opt_state: None
        self._mesh = mesh
        self._axes = replica_axes(mesh)
        self.micro_batches = plan.micro_batches
        # Without AGVM the groups are still measured, for the noise scale, by the
        # estimator that costs nothing; one group alone has nothing to be compared with.
        self._groups = None
        if plan.replicas * plan.micro_batches > 1:
            self._groups = GroupPlan(
                labels,
                axis_name=self._axes,
                replicas=plan.replicas,
                micro_batches=plan.micro_batches,
                estimator=recipe.agvm.estimator if recipe.agvm else "norms",
                split=recipe.agvm.split if recipe.agvm else "interleaved",
            )
        self._grad = value_and_local_grad(loss, axis_name=self._axes)
        if sam := recipe.sam:
            self._grad = sam_value_and_grad(
                self._grad, sam.rho, axis_name=self._axes, synced=sam.synced
            )
        self._update = functools.partial(
            updated,
            recipe=recipe,
            labels=labels,
            batch_size=plan.batch_size,
            num_images=num_images,
        )
        self._compile()

    def _compile(self) -> None:
        """Makes `start`, `accumulate` and `programs`."""
        whole, rows = P(), P(self._axes)
        start = self._shard_map(self._start, (whole, rows), rows)
        accumulate = self._shard_map(self._accumulate, (whole, rows, rows, whole), rows)
        self.start = jax.jit(start)
        self.accumulate = jax.jit(accumulate, donate_argnums=1)

        def ending(measure):
            ends = functools.partial(self._apply, measure)
            apply = self._shard_map(ends, (whole, rows), (whole, whole))

            def single(state, batch):
                return apply(state, accumulate(state, start(state, batch), batch, 0))

            programs = {"apply": apply, "single": single}
            return {k: jax.jit(v, donate_argnums=0) for k, v in programs.items()}

        self.programs = {measure: ending(measure) for measure in (True, False)}

    def _shard_map(self, function: Callable, in_specs: Any, out_specs: Any) -> Callable:
        # Grouped reduce-scatters, which "halves" are made of, need check_vma=False;
        # gradients are then local to the replica by themselves.
        return jax.shard_map(
            function,
            mesh=self._mesh,
            in_specs=in_specs,
            out_specs=out_specs,
            check_vma=False,
        )

    def measures(self, index: int) -> bool:
        """Whether the step with this number, from 0 on, measures phi.

        With AGVM every ``tau`` steps, by the optimizer's own clock, which is the number
        of steps (`training.state`); from the first step on, to be looked at, though mu
        takes nothing in before its ``start_step``. Without AGVM every step measures the
        noise scale, from norms alone.
        """
        if self._groups is None:
            return False
        agvm = self._recipe.agvm
        return agvm is None or dataclasses.replace(agvm, start_step=0).due(index)

    def __call__(
        self, state: TrainState, batches: Iterator[Any], index: int
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Takes one optimizer step.

        Args:
          state: the state before; its buffers are given away.
          batches: an iterator of device batches; ``micro_batches`` of them are taken.
          index: ``state.step``, known to the host: the steps taken before.

        Returns:
          The state after, and a dict of scalars on the device: loss, loss/<part>,
          finite, grad_norm, grad_norm/<module>; what AGVM knows, mu/<module>; and at a
          measuring step phi/<module> and update_variance/<module> (eq. 3).
        """
        programs = self.programs[self.measures(index)]
        batch = next(batches)
        if self.micro_batches == 1:
            return programs["single"](state, batch)
        carry = self.start(state, batch)
        for number in range(self.micro_batches):
            batch = batch if number == 0 else next(batches)
            carry = self.accumulate(state, carry, batch, jnp.int32(number))
        return programs["apply"](state, carry)

    def _start(self, state: TrainState, batch: Any) -> Carry:
        """Returns empty sums."""
        parts = jax.eval_shape(
            self._loss, state.params, state.model_state, batch, jax.random.key(0)
        )[1][1]
        if self._groups:
            groups = self._groups.init(state.params)
        else:
            groups = jax.tree.map(jnp.zeros_like, state.params)
        zero = jnp.zeros([], jnp.float32)
        return lead(Carry(groups, state.model_state, zero, dict.fromkeys(parts, zero)))

    def _accumulate(
        self, state: TrainState, carry: Carry, batch: Any, index: jax.Array
    ) -> Carry:
        """Adds one micro-batch to a replica's sums."""
        carry = unlead(carry)
        value, grads = self._grad(
            state.params, carry.model_state, batch, self._key(state, index)
        )
        groups = grads
        if self._groups:
            weights = self._weights(state.opt_state)
            groups = self._groups.add(carry.groups, grads, weights)
        return lead(added(carry, groups, value))

    def _key(self, state: TrainState, index: jax.Array) -> jax.Array:
        """Returns the key of this replica's micro-batch."""
        replica = jax.lax.axis_index(self._axes)
        replicas = jax.lax.axis_size(self._axes)
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        return jax.random.fold_in(key, index * replicas + replica)

    def _apply(
        self, measure: bool, state: TrainState, carry: Carry
    ) -> tuple[TrainState, dict]:
        """Reduces the sums over the replicas and updates the state."""
        carry = unlead(carry)
        stats = None
        if self._groups:
            grads, stats = self._groups.finish(
                carry.groups, self._weights(state.opt_state), measure
            )
        else:
            grads = mean_gradients(carry.groups, self._axes)
        reduced = Reduced(grads, stats, *self._means(carry), carry.model_state)
        return self._update(state, reduced, measure)

    def _means(self, carry: Carry) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns loss and parts, by one small reduction for all that is logged."""
        return jax.tree.map(
            lambda total: jax.lax.pmean(total, self._axes) / self.micro_batches,
            (carry.loss, carry.parts),
        )


def added(carry: Carry, groups: Any, value: Any) -> Carry:
    """Returns what is carried after one more value of the loss function."""
    loss, (model_state, parts) = value
    return Carry(
        groups=groups,
        model_state=model_state,
        loss=carry.loss + loss.astype(jnp.float32),
        parts={
            name: carry.parts[name] + part.astype(jnp.float32)
            for name, part in parts.items()
        },
    )


def lead(tree: Any) -> Any:
    """Gives every leaf the leading replica axis."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], tree)


def unlead(tree: Any) -> Any:
    """Takes the leading replica axis, one entry here, away."""
    return jax.tree.map(lambda leaf: leaf[0], tree)
