"""Measures phi while gradients stream in: micro-batches times replicas."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from agvm_jax.optim.floats import (
    added,
    divided,
    in_dtypes,
    is_inexact,
    kept_where,
    midway,
    weighted,
)
from agvm_jax.optim.modules import module_names
from agvm_jax.optim.options import Estimator, Split, check_groups
from agvm_jax.optim.reduction import psum_scalars, sum_gradients, total_and_stats
from agvm_jax.optim.replicas import (
    AxisName,
    Shards,
    as_varying,
    axis_size,
    find_shards,
    joined,
)
from agvm_jax.optim.stacked import count_groups
from agvm_jax.optim.variance import (
    GroupStats,
    ModuleScalars,
    half_of,
    module_sq_norms,
    no_stats,
    products_of_halves,
    stats_from_halves,
)

PyTree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GroupAccumulator:
    """What a replica carries from one micro-batch to the next; a pytree.

    Attributes:
      sums: one gradient sum, or one for each half of the micro-batches.
      sum_sq: module -> sum of ||g||^2 over the micro-batches; 0 with halves.
      count: () int32, micro-batches so far.
      dtypes: the gradients' own dtypes, leaf by leaf, which their mean will have.
    """

    sums: tuple[PyTree, ...]
    sum_sq: ModuleScalars
    count: jax.Array
    dtypes: tuple[jnp.dtype, ...] = dataclasses.field(metadata={"static": True})


@dataclasses.dataclass(frozen=True)
class GroupPlan:
    """How replicas and micro-batches make up the groups of a measurement.

    ``init``, ``add`` once for each micro-batch, ``finish``; the accumulator is a pytree
    of constant shapes, fit to be the carry of ``jax.lax.scan``.

    With ``norms`` every micro-batch of every replica is a group and the only
    addition to plain accumulation is one scalar a module. With ``halves`` the halves
    are made of replicas when their number is even, which costs no memory; else of
    micro-batches, and then two gradient sums are kept instead of one.

    Attributes:
      labels: pytree of str shaped like the gradients, from ``label_tree``.
      axis_name: the axis of replicas, or None for one replica.
      replicas: their number; it must be the size of the axis.
      micro_batches: how many gradients a replica adds.
      estimator: "halves" (paper) or "norms" (ours).
      split: "interleaved" (paper) or "contiguous" (released code) halves.
      shard_axes: further manual mesh axes that hold shards of parameters, see
        ``mean_and_phi``. Under plain ``jit`` XLA knows them and nothing is to be said.

    Raises:
      ValueError: one group only, or groups that ``halves`` cannot split equally.

    >>> params = {"backbone": jnp.zeros(2)}
    >>> plan = GroupPlan({"backbone": "backbone"}, micro_batches=2)
    >>> state = plan.init(params)
    >>> state = plan.add(state, {"backbone": jnp.array([2.0, 0.0])})
    >>> state = plan.add(state, {"backbone": jnp.array([0.0, 2.0])})
    >>> mean, stats = plan.finish(state)
    >>> mean["backbone"].tolist(), float(stats.phi["backbone"])
    ([1.0, 1.0], 1.0)
    """

    labels: PyTree
    axis_name: AxisName | None = None
    replicas: int = 1
    micro_batches: int = 1
    estimator: Estimator = "halves"
    split: Split = "interleaved"
    shard_axes: AxisName | PyTree | None = None

    def __post_init__(self) -> None:
        if self.replicas < 1 or self.micro_batches < 1:
            raise ValueError(
                f"replicas={self.replicas}, micro_batches={self.micro_batches}: both "
                "must be at least 1"
            )
        if self.replicas > 1 and self.axis_name is None:
            raise ValueError(
                f"{self.replicas} replicas need the name of their axis: axis_name="
            )
        groups = self.replicas * self.micro_batches
        check_groups(groups, self.estimator, self.split)

    @property
    def num_groups(self) -> int:
        """Groups that a measurement has: 2 for halves."""
        if self.estimator == "halves":
            return 2
        return self.replicas * self.micro_batches

    @property
    def halves_of_micro_batches(self) -> bool:
        """Whether two gradient sums are kept."""
        return self.estimator == "halves" and self.replicas % 2 == 1

    def init(self, params: PyTree) -> GroupAccumulator:
        """Return an empty accumulator for gradients shaped like ``params``.

        Sums over several micro-batches are float32; a single one keeps its dtype. They
        lie on the devices as ``params`` do.
        """

        def zeros(leaf: Any) -> jax.Array:
            dtype = jnp.result_type(leaf)
            if self.micro_batches > 1 and is_inexact(leaf):
                dtype = jnp.promote_types(dtype, jnp.float32)
            # Like the leaf, so that on a mesh with Explicit axes it is sharded alike.
            return jnp.zeros_like(leaf, dtype)

        zero = jnp.zeros((), jnp.float32)
        # The carry of a scan must vary over replicas from the start, as it will after.
        sums = as_varying(
            (jax.tree.map(zeros, params),) * (1 + self.halves_of_micro_batches),
            self.axis_name,
        )
        sum_sq = as_varying(
            dict.fromkeys(module_names(self.labels), zero),
            joined(self.axis_name, self._shards(params).axes),
        )
        dtypes = tuple(jnp.result_type(leaf) for leaf in jax.tree.leaves(params))
        return GroupAccumulator(sums, sum_sq, jnp.zeros((), jnp.int32), dtypes)

    def add(
        self,
        accumulator: GroupAccumulator,
        grads: PyTree,
        weights: PyTree | None = None,
    ) -> GroupAccumulator:
        """Add the replica's own mean gradient of one micro-batch.

        ``weights``, if any, are the same at every micro-batch and in ``finish``; see
        ``mean_and_phi``.
        """
        sums, sum_sq, count = accumulator.sums, accumulator.sum_sq, accumulator.count
        if self.halves_of_micro_batches:
            half = half_of(count, self.micro_batches, self.split)
            # Zeros to the other half: both sums stay in place, where picking one of two
            # by its index would copy it first.
            shares = [kept_where(half == k, grads) for k in (0, 1)]
        else:
            shares = [grads]
        sums = tuple(map(added, sums, shares))
        if self.estimator == "norms":
            shards = self._shards(grads)
            norms = module_sq_norms(
                weighted(weights, grads), self.labels, shards.shares
            )
            norms = as_varying(norms, joined(self.axis_name, shards.axes))
            sum_sq = {m: sum_sq[m] + norms[m] for m in sum_sq}
        return GroupAccumulator(sums, sum_sq, count + 1, accumulator.dtypes)

    def finish(
        self,
        accumulator: GroupAccumulator,
        weights: PyTree | None = None,
        measure: bool = True,
    ) -> tuple[PyTree, GroupStats]:
        """Return the mean gradients over all groups and their statistics.

        Args:
          accumulator: after the last micro-batch.
          weights: as in ``add``.
          measure: False leaves the measurement out, with what it costs; the statistics
            are then nan. A program for the steps between two measurements.

        Raises:
          ValueError: the axis has another number of replicas; or, where that can be
            known, another number of micro-batches was added.
        """
        self.check(accumulator)
        if self.halves_of_micro_batches:
            total, stats = self._finish_two_sums(accumulator.sums, weights, measure)
        else:
            total, stats = total_and_stats(
                divided(accumulator.sums[0], self.micro_batches),
                self.axis_name,
                self.labels,
                self.estimator,
                self.split,
                weights,
                shard_axes=self.shard_axes,
                own=self._own(accumulator),
                due=measure,
            )
        return in_dtypes(divided(total, self.replicas), accumulator.dtypes), stats

    def _own(self, accumulator: GroupAccumulator) -> tuple[ModuleScalars, int] | None:
        """Return a replica's own groups: sum of squared norms, and their number."""
        if self.estimator == "halves":
            return None
        return accumulator.sum_sq, self.micro_batches

    def _finish_two_sums(
        self, sums: tuple[PyTree, ...], weights: PyTree | None, measure: bool
    ) -> tuple[PyTree, GroupStats]:
        """Halves made of micro-batches; over an odd number of replicas both travel."""
        halves = divided(sums, self.micro_batches // 2)
        if not measure:
            local = midway(*halves)
            return sum_gradients(local, self.axis_name), no_stats(self.labels, 2)
        shards = self._shards(halves[0])
        a, b = sum_gradients(halves, self.axis_name)
        products = products_of_halves(
            *divided((a, b), self.replicas), self.labels, weights, shards.shares
        )
        total = midway(a, b)
        return total, stats_from_halves(psum_scalars(products, shards.axes))

    def _shards(self, grads: PyTree) -> Shards:
        if self.axis_name is None:
            return Shards()
        return find_shards(grads, self.axis_name, self.shard_axes)

    def check(self, accumulator: GroupAccumulator) -> None:
        """Raise the errors of ``finish``."""
        if axis_size(self.axis_name) != self.replicas:
            raise ValueError(
                f"GroupPlan was made for {self.replicas} replicas but the axis "
                f"{self.axis_name!r} has {axis_size(self.axis_name)}"
            )
        count = accumulator.count
        if not isinstance(count, Tracer) and count != self.micro_batches:
            raise ValueError(
                f"GroupPlan was made for {self.micro_batches} micro-batches but "
                f"{count} were added: groups must be of equal size"
            )


def split_batch(batch: PyTree, num_groups: int) -> PyTree:
    """Reshape a batch, leaves (B, ...), to (num_groups, B / num_groups, ...).

    Raises:
      ValueError: the groups would not be of equal size.

    >>> split_batch(jnp.arange(6), 3).tolist()
    [[0, 1], [2, 3], [4, 5]]
    """
    size = count_groups(batch)
    if num_groups < 1 or size % num_groups:
        raise ValueError(
            f"a batch of {size} does not make {num_groups} groups of equal size"
        )
    return jax.tree.map(
        lambda x: x.reshape(num_groups, size // num_groups, *x.shape[1:]), batch
    )
