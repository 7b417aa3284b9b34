"""One optimizer step with sharded state: `TrainStep` with other ends.

Every device is a replica with images of its own, whatever is sharded. Under
``shard_map`` a step gathers what the network needs, computes local gradients, and ends
with the mean gradient, scattered, and phi. The optimizer runs outside of it, under
plain ``jit`` on global arrays with named shardings: inside, a norm would be that of a
shard, and ``clip_by_global_norm(1)`` left a norm of 2.

Two routes lead to the mean gradient and phi.

* *Taps* (`optim.sharding`), under "full" with the estimator ``norms``: gradients are
  scattered while the backward pass runs, and no device ever holds a whole one.
* *Whole gradients* (`optim.scattering`), for everything else: each device sums up the
  gradients of its micro-batches and scatters the sum at the end. Halves, a
  preconditioned cosine and SAM's perturbation look at a replica's own gradient, so
  under "full" too they take this route, and the memory of one gradient.

Numbers are those of `TrainStep` on as many replicas but for rounding.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from agvm_jax.optim.modules import FROZEN, leaf_paths
from agvm_jax.optim.scattering import finish_scattered
from agvm_jax.optim.sharding import ShardPlan
from agvm_jax.optim.variance import no_stats
from agvm_jax.training.batching import BatchPlan
from agvm_jax.training.mesh import DATA_AXIS, FSDP_AXIS
from agvm_jax.training.partition import Partition, sharded_dim
from agvm_jax.training.recipes import Recipe
from agvm_jax.training.shard_choice import takes_taps
from agvm_jax.training.state import TrainState
from agvm_jax.training.step import Carry, LossFn, TrainStep, added, lead, unlead
from agvm_jax.training.update import Reduced


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Where everything lies: specs of a state and of gradients, and two gathers."""

    state: TrainState  # without the optimizer's state, which stays outside
    grads: Any
    params: ShardPlan
    frozen: ShardPlan  # of the model state

    def shards_of(self, new: Any, whole: Any, shards: Any) -> Any:
        """Returns a model state as it lies, from the whole one of a loss function.

        Args:
          new: what the loss gave back.
          whole: what it was given.
          shards: what that was gathered from.

        Raises:
          ValueError: the loss changed an array that is sharded.
        """

        def leaf(new, whole, shard, dim):
            if dim < 0:
                return new
            if new is not whole:
                raise ValueError(
                    f"the loss gives back another array of shape {whole.shape} in its"
                    " model state than it got: under train.shard=full arrays of two and"
                    " more dimensions there must be constants, such as frozen kernels."
                )
            return shard

        return jax.tree.map(leaf, new, whole, shards, self.frozen.dims)


class ShardedTrainStep(TrainStep):
    """The compiled train step of a run whose state is sharded.

    Args:
      loss: as for `TrainStep`; it averages over all axes of the mesh. Where the
        partition knows of layers it takes ``gather=`` too: a function that makes one
        layer of a parameter whole (`optim.sharding.ShardPlan.gather_in_loops`).
      recipe: the optimizer.
      plan: how a batch is shared out; its replicas are all devices of the mesh.
      partition: where the state lies; mode "optimizer" or "full".
      labels: the module of every parameter.
      num_images: as for `TrainStep`.
      dtype: what kernels travel in under "full": that of the network, which casts them
        to it anyway. None for their own.

    Raises:
      ValueError: fewer than two groups of gradients; a step has more than one device.
    """

    def __init__(
        self,
        loss: LossFn,
        recipe: Recipe,
        plan: BatchPlan,
        partition: Partition,
        labels: Any,
        num_images: int | None = None,
        dtype: Any = None,
    ):
        if plan.replicas < 2:
            raise ValueError(
                f"state can be sharded over two devices and more, and there are"
                f" {plan.replicas}: use train.shard=none."
            )
        self._partition = partition
        self._dtype, self._labels = dtype, labels
        self._taps = takes_taps(recipe, partition.mode)
        super().__init__(loss, recipe, plan, partition.mesh, labels, num_images)

    def _compile(self) -> None:
        rows = P(self._axes)

        def start(state, batch):
            layout, used = self._layout(state), _used(state)
            begin = functools.partial(self._begin, layout)
            return self._shard_map(begin, (layout.state, rows), rows)(used, batch)

        def accumulate(state, carry, batch, index):
            layout, used = self._layout(state), _used(state)
            by_norms = self._groups.estimator == "norms"
            weights = self._weights(state.opt_state) if by_norms else None
            add = functools.partial(self._add, layout)
            specs = (layout.state, rows, rows, P(), P())
            mapped = self._shard_map(add, specs, rows)
            return mapped(used, carry, batch, index, weights)

        def apply(measure, state, carry):
            layout = self._layout(state)
            weights = self._weights(state.opt_state) if measure else None
            reduce = functools.partial(self._reduce, layout, measure)
            found = Reduced(layout.grads, P(), P(), P(), layout.state.model_state)
            parts = None if weights is None else layout.grads
            mapped = self._shard_map(reduce, (rows, parts), found)
            lay = functools.partial(self._constrained, layout.grads)
            new, metrics = self._update(state, mapped(carry, weights), measure, lay=lay)
            specs = self._partition.state_specs(state)
            return self._constrained(specs, new), metrics

        def single(measure, state, batch):
            carry = accumulate(state, start(state, batch), batch, jnp.int32(0))
            return apply(measure, state, carry)

        self.start = jax.jit(start)
        self.accumulate = jax.jit(accumulate, donate_argnums=1)
        self.programs = {
            measure: {
                name: jax.jit(functools.partial(end, measure), donate_argnums=0)
                for name, end in (("apply", apply), ("single", single))
            }
            for measure in (True, False)
        }

    def _layout(self, state: TrainState) -> _Layout:
        """Returns where everything lies, from the global shapes of a state."""
        used, full = _used(state), self._partition.mode == "full"
        specs = self._partition.state_specs(used)

        def dims(tree, specs):
            return jax.tree.map(
                lambda _, spec: sharded_dim(spec, FSDP_AXIS) if full else -1,
                tree,
                specs,
            )

        def plan(tree, dims, labels, looped=None):
            kernels = _kernels(tree)
            return ShardPlan(
                labels, dims, FSDP_AXIS, DATA_AXIS, self._dtype, kernels, looped
            )

        frozen = jax.tree.map(lambda _: FROZEN, used.model_state)
        layers = self._partition.layers_of(used.params)
        looped = layers if full and any(jax.tree.leaves(layers)) else None
        return _Layout(
            state=specs,
            grads=self._partition.grad_specs(used.params),
            params=plan(
                used.params, dims(used.params, specs.params), self._labels, looped
            ),
            frozen=plan(
                used.model_state, dims(used.model_state, specs.model_state), frozen
            ),
        )

    def _constrained(self, specs: Any, tree: Any) -> Any:
        shardings = self._partition.shardings(specs)
        return jax.lax.with_sharding_constraint(tree, shardings)

    def _begin(self, layout: _Layout, state: TrainState, batch: Any) -> Carry:
        """Returns empty sums. What is gathered here gives shapes, and is not run."""
        params, frozen = layout.params, layout.frozen
        whole = dataclasses.replace(
            state,
            params=params.gather(state.params, params.taps(), all_of_it=True),
            model_state=frozen.gather(state.model_state, {}),
        )
        carry = self._start(whole, batch)
        if self._taps:
            zeros = jax.tree.map(jnp.zeros_like, state.params)
            carry = carry._replace(groups=lead((zeros, params.taps())))
        return carry._replace(model_state=lead(state.model_state))

    def _add(
        self,
        layout: _Layout,
        state: TrainState,
        carry: Carry,
        batch: Any,
        index: jax.Array,
        weights: Any,
    ) -> Carry:
        """Adds one micro-batch to a replica's sums."""
        carry, plan = unlead(carry), layout.params
        model_state = layout.frozen.gather(carry.model_state, {})
        rest = model_state, batch, self._key(state, index)
        if self._taps:

            def loss(params, taps, *rest):
                inside = {}
                if plan.looped:
                    inside["gather"] = plan.gather_in_loops(params, taps)
                return self._loss(plan.gather(params, taps), *rest, **inside)

            value, measured = plan.value_and_grad(loss)(state.params, *rest)
            groups = jax.tree.map(jnp.add, carry.groups, measured)
        else:
            # Gathered outside of what is differentiated, so the gradient is whole.
            params = plan.gather(state.params, plan.taps(), all_of_it=True)
            value, grads = self._grad(params, *rest)
            groups = self._groups.add(carry.groups, grads, weights)
        loss, (new_state, parts) = value
        new_state = layout.shards_of(new_state, model_state, carry.model_state)
        return lead(added(carry, groups, (loss, (new_state, parts))))

    def _reduce(
        self, layout: _Layout, measure: bool, carry: Carry, weights: Any
    ) -> Reduced:
        """Turns the replicas' sums into the mean gradient, scattered, and phi."""
        carry = unlead(carry)
        if self._taps:
            grads, stats = layout.params.finish(
                *carry.groups, self.micro_batches, measure
            )
            stats = stats or no_stats(self._labels, self._groups.num_groups)
        else:
            grads, stats = finish_scattered(
                self._groups, carry.groups, layout.grads, weights, measure
            )
        return Reduced(grads, stats, *self._means(carry), carry.model_state)


def _used(state: TrainState) -> TrainState:
    """Returns what a forward and backward pass needs of a state."""
    return dataclasses.replace(state, opt_state=(), noise=(), average=None)


def _kernels(tree: Any) -> Any:
    """Returns which leaves every layer casts to the network's dtype, as bools.

    Swin's tables of positions are not among them: they are added in float32.
    """
    names = [path.split("/")[-1] for path in leaf_paths(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree), [n == "kernel" for n in names])


def make_step(
    loss: LossFn,
    recipe: Recipe,
    plan: BatchPlan,
    partition: Partition,
    labels: Any,
    num_images: int | None = None,
    dtype: Any = None,
) -> TrainStep:
    """Returns the train step for a partition; arguments as `ShardedTrainStep`'s."""
    if partition.mode == "none":
        return TrainStep(loss, recipe, plan, partition.mesh, labels, num_images)
    return ShardedTrainStep(loss, recipe, plan, partition, labels, num_images, dtype)
