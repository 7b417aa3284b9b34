"""Measures phi while gradients stream in: micro-batches times replicas."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from agvm_jax.optim.modules import is_inexact, map_floats, module_names
from agvm_jax.optim.reduction import (
    mean_and_phi,
    mean_gradients,
    psum_scalars,
    weighted,
)
from agvm_jax.optim.replicas import AxisName, as_varying, axis_size
from agvm_jax.optim.variance import (
    Estimator,
    GroupStats,
    ModuleScalars,
    Split,
    check_groups,
    count_groups,
    half_of,
    module_sq_norms,
    module_vdot,
    stats_from_halves,
    stats_from_replicas,
)

PyTree = Any


class GroupAccumulator(NamedTuple):
    """What a replica carries from one micro-batch to the next."""

    sums: tuple[PyTree, ...]  # one gradient sum, or one for each half of micro-batches
    sum_sq: ModuleScalars  # sum of ||g||^2 over the micro-batches; 0 with halves
    count: jax.Array  # () int32, micro-batches so far


@dataclasses.dataclass(frozen=True)
class GroupPlan:
    """How replicas and micro-batches make up the groups of a measurement.

    ``init``, ``add`` once for each micro-batch, ``finish``; the accumulator is a pytree
    of constant shapes, fit to be the carry of ``jax.lax.scan``.

    With ``replicas`` every micro-batch of every replica is a group and the only
    addition to plain accumulation is one scalar a module. With ``halves`` the halves
    are made of replicas when their number is even, which costs no memory; else of
    micro-batches, and then two gradient sums are kept instead of one.

    Attributes:
      labels: pytree of str shaped like the gradients, from ``label_tree``.
      axis_name: the axis of replicas, or None for one replica.
      replicas: their number; it must be the size of the axis.
      micro_batches: how many gradients a replica adds.
      estimator: "halves" (paper) or "replicas" (ours).
      split: "interleaved" (paper) or "contiguous" (released code) halves.

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

        Sums over several micro-batches are float32; a single one keeps its dtype.
        """

        def zeros(leaf: Any) -> jax.Array:
            shape, dtype = jnp.shape(leaf), jnp.result_type(leaf)
            if self.micro_batches > 1 and is_inexact(leaf):
                dtype = jnp.promote_types(dtype, jnp.float32)
            return jnp.zeros(shape, dtype)

        zero = jnp.zeros((), jnp.float32)
        # The carry of a scan must vary over replicas from the start, as it will after.
        sums, sum_sq = as_varying(
            (
                (jax.tree.map(zeros, params),) * (1 + self.halves_of_micro_batches),
                dict.fromkeys(module_names(self.labels), zero),
            ),
            self.axis_name,
        )
        return GroupAccumulator(sums, sum_sq, jnp.zeros((), jnp.int32))

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
        sums, sum_sq, count = accumulator
        if self.halves_of_micro_batches:
            half = half_of(count, self.micro_batches, self.split)
            # Zeros to the other half: both sums stay in place, where picking one of two
            # by its index would copy it first.
            shares = [
                map_floats(lambda g, k=k: jnp.where(half == k, g, 0), grads)
                for k in (0, 1)
            ]
        else:
            shares = [grads]
        sums = tuple(map(_add, sums, shares))
        if self.estimator == "replicas":
            norms = module_sq_norms(weighted(weights, grads), self.labels)
            sum_sq = {m: sum_sq[m] + norms[m] for m in sum_sq}
        return GroupAccumulator(sums, sum_sq, count + 1)

    def finish(
        self, accumulator: GroupAccumulator, weights: PyTree | None = None
    ) -> tuple[PyTree, GroupStats]:
        """Return the mean gradients over all groups and their statistics.

        Raises:
          ValueError: the axis has another number of replicas; or, where that can be
            known, another number of micro-batches was added.
        """
        self._check(accumulator)
        sums, sum_sq, _ = accumulator
        per_replica = 1.0 / self.micro_batches
        if self.halves_of_micro_batches:
            return self._finish_two_sums(sums, weights)
        local = map_floats(lambda s: s * per_replica, sums[0])
        if self.estimator == "halves":
            return mean_and_phi(
                local, self.axis_name, self.labels, "halves", self.split, weights
            )
        mean = local
        if self.axis_name is not None:
            mean = mean_gradients(local, self.axis_name)
            sum_sq = psum_scalars(sum_sq, self.axis_name)
        mean_sq = {m: value / self.num_groups for m, value in sum_sq.items()}
        sq_mean = module_sq_norms(weighted(weights, mean), self.labels)
        return mean, stats_from_replicas(mean_sq, sq_mean, self.num_groups)

    def _finish_two_sums(
        self, sums: tuple[PyTree, ...], weights: PyTree | None
    ) -> tuple[PyTree, GroupStats]:
        """Halves made of micro-batches; over an odd number of replicas both travel."""
        halves = map_floats(lambda s: s * (2.0 / self.micro_batches), sums)
        if self.axis_name is not None:
            halves = mean_gradients(halves, self.axis_name)
        a, b = halves
        mean = map_floats(lambda x, y: (x + y) / 2, a, b)
        a, b = weighted(weights, a), weighted(weights, b)
        return mean, stats_from_halves(
            module_vdot(a, b, self.labels),
            module_sq_norms(a, self.labels),
            module_sq_norms(b, self.labels),
        )

    def _check(self, accumulator: GroupAccumulator) -> None:
        if self.axis_name is not None and axis_size(self.axis_name) != self.replicas:
            raise ValueError(
                f"GroupPlan was made for {self.replicas} replicas but the axis "
                f"{self.axis_name!r} has {axis_size(self.axis_name)}"
            )
        count = accumulator.count
        if not isinstance(count, jax.core.Tracer) and count != self.micro_batches:
            raise ValueError(
                f"GroupPlan was made for {self.micro_batches} micro-batches but "
                f"{count} were added: groups must be of equal size"
            )


def _add(sums: PyTree, grads: PyTree) -> PyTree:
    return map_floats(lambda s, g: s + g.astype(s.dtype), sums, grads)


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
