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
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from agvm_jax.optim.baselines import sam_value_and_grad
from agvm_jax.optim.groups import GroupPlan
from agvm_jax.optim.noise import noise_update, update_variance
from agvm_jax.optim.reduction import mean_gradients
from agvm_jax.optim.replicas import value_and_local_grad
from agvm_jax.optim.variance import module_sq_norms
from agvm_jax.training.batching import BatchPlan
from agvm_jax.training.mesh import DATA_AXIS
from agvm_jax.training.recipes import Recipe
from agvm_jax.training.state import TrainState, with_counts_of

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
      mesh: the data mesh.
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
        self._batch_size = plan.batch_size
        self._labels = labels
        self._num_images = num_images
        self.micro_batches = plan.micro_batches
        # Without AGVM the groups are still measured, for the noise scale, by the
        # estimator that costs nothing; one group alone has nothing to be compared with.
        self._groups = None
        if plan.replicas * plan.micro_batches > 1:
            self._groups = GroupPlan(
                labels,
                axis_name=DATA_AXIS,
                replicas=plan.replicas,
                micro_batches=plan.micro_batches,
                estimator=recipe.agvm.estimator if recipe.agvm else "norms",
                split=recipe.agvm.split if recipe.agvm else "interleaved",
            )
        self._grad = value_and_local_grad(loss, axis_name=DATA_AXIS)
        if sam := recipe.sam:
            self._grad = sam_value_and_grad(
                self._grad, sam.rho, axis_name=DATA_AXIS, synced=sam.synced
            )

        def shard(function, in_specs, out_specs):
            # Grouped reduce-scatters, which "halves" are made of, need check_vma=False;
            # gradients are then local to the replica by themselves.
            return jax.shard_map(
                function,
                mesh=mesh,
                in_specs=in_specs,
                out_specs=out_specs,
                check_vma=False,
            )

        whole, rows = P(), P(DATA_AXIS)
        start = shard(self._start, (whole, rows), rows)
        accumulate = shard(self._accumulate, (whole, rows, rows, whole), rows)
        self.start = jax.jit(start)
        self.accumulate = jax.jit(accumulate, donate_argnums=1)

        def ending(measure):
            ends = functools.partial(self._apply, measure)
            apply = shard(ends, (whole, rows), (whole, whole))

            def single(state, batch):
                return apply(state, accumulate(state, start(state, batch), batch, 0))

            programs = {"apply": apply, "single": single}
            return {k: jax.jit(v, donate_argnums=0) for k, v in programs.items()}

        self.programs = {measure: ending(measure) for measure in (True, False)}

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
        return _lead(Carry(groups, state.model_state, zero, dict.fromkeys(parts, zero)))

    def _accumulate(
        self, state: TrainState, carry: Carry, batch: Any, index: jax.Array
    ) -> Carry:
        """Adds one micro-batch to a replica's sums."""
        carry = _unlead(carry)
        replica = jax.lax.axis_index(DATA_AXIS)
        replicas = jax.lax.axis_size(DATA_AXIS)
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        key = jax.random.fold_in(key, index * replicas + replica)
        (loss, (model_state, parts)), grads = self._grad(
            state.params, carry.model_state, batch, key
        )
        if self._groups:
            groups = self._groups.add(
                carry.groups, grads, self._recipe.weights(state.opt_state)
            )
        else:
            groups = grads
        return _lead(
            Carry(
                groups=groups,
                model_state=model_state,
                loss=carry.loss + loss.astype(jnp.float32),
                parts={
                    name: carry.parts[name] + part.astype(jnp.float32)
                    for name, part in parts.items()
                },
            )
        )

    def _apply(
        self, measure: bool, state: TrainState, carry: Carry
    ) -> tuple[TrainState, dict]:
        """Reduces the sums over the replicas and updates the state."""
        carry = _unlead(carry)
        stats, noise, phi = None, state.noise, {}
        if self._groups:
            grads, stats = self._groups.finish(
                carry.groups, self._recipe.weights(state.opt_state), measure
            )
        else:
            grads = mean_gradients(carry.groups, DATA_AXIS)
        if measure:
            noise = noise_update(noise, stats, batch_size=self._batch_size)
        if self._recipe.measures:
            phi = {"phi": stats.phi}
        # One small reduction for everything that is logged.
        loss, parts = jax.tree.map(
            lambda total: jax.lax.pmean(total, DATA_AXIS) / self.micro_batches,
            (carry.loss, carry.parts),
        )
        squares = module_sq_norms(grads, self._labels)
        finite = jnp.isfinite(loss)
        for square in squares.values():
            finite &= jnp.isfinite(square)

        updates, opt_state = self._recipe.tx.update(
            grads, state.opt_state, state.params, **phi
        )
        params = optax.apply_updates(state.params, updates)

        def accept(new, old):
            return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)

        new_state = TrainState(
            step=state.step + 1,
            params=accept(params, state.params),
            model_state=accept(carry.model_state, state.model_state),
            # Counts are the clock of schedules, and a skipped step took its time.
            opt_state=with_counts_of(opt_state, accept(opt_state, state.opt_state)),
            noise=accept(noise, state.noise),
            key=state.key,
            skipped=jnp.where(finite, 0, state.skipped + 1),
        )
        metrics = {
            "loss": loss,
            "finite": finite,
            "skipped": new_state.skipped,
            "grad_norm": jnp.sqrt(sum(squares.values())),
            **{f"loss/{name}": part for name, part in parts.items()},
            **{f"grad_norm/{name}": jnp.sqrt(sq) for name, sq in squares.items()},
        }
        if measure:
            metrics |= {f"phi/{name}": value for name, value in stats.phi.items()}
            variances = update_variance(
                stats,
                rate=self._recipe.schedule(state.step),
                batch_size=self._batch_size,
                num_images=self._num_images,
            )
            metrics |= {f"update_variance/{k}": v for k, v in variances.items()}
        if self._recipe.measures:
            mu = optax.tree.get(new_state.opt_state, "AgvmState").mu
            metrics |= {f"mu/{name}": value for name, value in mu.items()}
        return new_state, metrics


def _lead(tree: Any) -> Any:
    """Gives every leaf the leading replica axis."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], tree)


def _unlead(tree: Any) -> Any:
    """Takes the leading replica axis, one entry here, away."""
    return jax.tree.map(lambda leaf: leaf[0], tree)
