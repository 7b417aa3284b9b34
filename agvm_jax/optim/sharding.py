"""phi of fully sharded parameters: norms tapped in the gather's own backward pass.

Under full sharding no device ever holds a replica's whole gradient: it is scattered
while the backward pass runs. But the backward pass of the gather sees it, one leaf at a
time, just before: there its squared norm is taken, and handed out as the "gradient" of
a scalar input of zero, the tap, one for each module. So phi by norms costs h scalars
beside the gradients and h beside their mean, and no gradient is kept for it.

The batch lies over both axes, replicas and shards; parameters over the second.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from agvm_jax.optim.floats import divided, is_inexact, psum_floats
from agvm_jax.optim.modules import leaf_labels, leaf_paths, module_names
from agvm_jax.optim.reduction import psum_scalars
from agvm_jax.optim.replicas import (
    AxisName,
    axis_size,
    find_shards,
    joined,
    tracks_varying,
)
from agvm_jax.optim.variance import (
    GroupStats,
    ModuleScalars,
    module_sq_norms,
    stats_from_norms,
)

PyTree = Any
Taps = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """How parameters lie over devices, and how their phi is measured, under shard_map.

    Everything here runs inside ``jax.shard_map(..., check_vma=False)``. A step is
    ``value_and_grad`` once for each micro-batch, sums of what it gives, and ``finish``.

    Attributes:
      labels: pytree of str shaped like the parameters, from ``label_tree``.
      dims: pytree like it, the dimension over which each leaf is sharded; -1 for a leaf
        that every device holds whole (``shard_dims`` chooses).
      shard_axis: the mesh axis over which parameters are sharded.
      axis_name: the axis of the devices that hold the same shards, or None.
      dtype: what sharded floats travel in, or None for their own. They arrive in their
        own again, so that the gradients of a layer that is used several times are
        summed in it; and gradients are squared and reduced in float32 whatever it is.
      narrow: None, or a pytree of bool like the parameters: which travel in ``dtype``.
      looped: None, or a pytree of bool like them: which are gathered inside of a loop
        over their first axis, one entry of it at a time.
    """

    labels: PyTree
    dims: PyTree
    shard_axis: str
    axis_name: AxisName | None = None
    dtype: Any = None
    narrow: PyTree | None = None
    looped: PyTree | None = None

    def gather(self, params: PyTree, taps: Taps, all_of_it: bool = False) -> PyTree:
        """Return the whole parameters. To be called once, at the start of a loss.

        Those that are gathered inside of a loop stay shards, unless ``all_of_it``.
        """
        leaves, treedef = jax.tree.flatten(params)
        whole = [
            leaf
            if looped and not all_of_it
            else self.gather_leaf(leaf, dim, taps.get(label), small)
            for leaf, (dim, label, small, looped) in zip(
                leaves, self._of_leaves(params), strict=True
            )
        ]
        return jax.tree.unflatten(treedef, whole)

    def gather_in_loops(
        self, params: PyTree, taps: Taps
    ) -> Callable[[str, jax.Array], jax.Array]:
        """Return (path of a leaf of ``looped``, an entry of it) -> the whole entry.

        To be called once for each leaf, in the body of the loop. What it returns raises
        a ValueError for a leaf that is cut along the loop's own axis.
        """
        table = dict(zip(leaf_paths(params), self._of_leaves(params), strict=True))

        def gather(path: str, entry: jax.Array) -> jax.Array:
            dim, label, small, looped = table[path]
            if not looped or dim == 0:
                raise ValueError(f"{path} cannot be gathered entry by entry")
            return self.gather_leaf(entry, max(dim - 1, -1), taps.get(label), small)

        return gather

    def _of_leaves(self, params: PyTree) -> list[tuple[int, str, bool, bool]]:
        """Return each leaf's dimension, module, and whether it is narrow and looped."""
        dims = jax.tree.leaves(self.dims)
        narrow = jax.tree.leaves(self.narrow) if self.narrow else [True] * len(dims)
        looped = jax.tree.leaves(self.looped) if self.looped else [False] * len(dims)
        labels = leaf_labels(self.labels, params)
        return list(zip(dims, labels, narrow, looped, strict=True))

    def gather_leaf(
        self, leaf: jax.Array, dim: int, tap: jax.Array | None, narrow: bool = True
    ) -> jax.Array:
        """Return one whole leaf, for those that are gathered inside of a scan.

        Args:
          leaf: this device's shard.
          dim: the dimension over which it is sharded, -1 if it is whole.
          tap: its module's tap; None for a leaf that is not measured.
          narrow: whether it travels in ``dtype``.
        """
        if not is_inexact(leaf):
            return _plain_gather(leaf, self.shard_axis, dim)
        tap = jnp.zeros((), jnp.float32) if tap is None else tap
        dtype = jnp.dtype(self.dtype) if self.dtype and narrow else leaf.dtype
        return _gather(leaf, tap, self.shard_axis, dim, dtype, leaf.dtype)

    def value_and_grad(
        self, loss_fn: Callable[..., Any], has_aux: bool = True
    ) -> Callable[..., Any]:
        """Return a function like ``jax.value_and_grad(loss_fn)`` that measures as well.

        Args:
          loss_fn: ``loss_fn(params, taps, *args)`` -> loss, or (loss, aux). It calls
            ``gather(params, taps)`` once, or ``gather_leaf`` once for each leaf.
          has_aux: whether ``loss_fn`` returns something beside the loss.

        Returns:
          ``(params, *args) -> (value, (grads, sum_sq))``: the gradients, shards like
          the parameters, summed over the shard axis; and module -> () float32, the
          squared norm of this device's own gradient. Both can be summed over
          micro-batches.

        Raises:
          ValueError: when it is traced: a leaf that is gathered twice, whose norm would
            be that of two parts; or ``check_vma=True``.
        """
        value_and_grad = jax.value_and_grad(loss_fn, (0, 1), has_aux=has_aux)

        def measured(params: PyTree, *args: Any, **kwargs: Any) -> Any:
            if tracks_varying(self.shard_axis):
                raise ValueError(
                    "ShardPlan needs shard_map(check_vma=False): with check_vma=True "
                    "jax sums gradients by itself before they can be measured"
                )
            taps = self.taps()
            self._check_one_gather_a_leaf(loss_fn, params, taps, *args, **kwargs)
            return value_and_grad(params, taps, *args, **kwargs)

        return measured

    def taps(self) -> Taps:
        """Return a zero for each module: the scalars whose gradients are norms."""
        zero = jnp.zeros((), jnp.float32)
        return dict.fromkeys(module_names(self.labels), zero)

    def finish(
        self,
        grads: PyTree,
        sum_sq: ModuleScalars,
        micro_batches: int = 1,
        measure: bool = True,
    ) -> tuple[PyTree, GroupStats | None]:
        """Return the mean gradients, still shards, and the statistics of all groups.

        Args:
          grads: what ``value_and_grad`` gave, summed over the micro-batches.
          sum_sq: the same of the squared norms.
          micro_batches: how many were summed.
          measure: False leaves the measurement out; the statistics are then None.

        Every micro-batch of every device is a group.

        Raises:
          ValueError: one group only.
        """
        devices = axis_size(self.axis_name) * axis_size(self.shard_axis)
        num_groups = devices * micro_batches
        if num_groups < 2:
            raise ValueError(
                "one group of gradients has no variance to measure: use at least two "
                "devices or micro-batches"
            )
        if self.axis_name is not None:
            grads = psum_floats(grads, self.axis_name)
        mean = divided(grads, num_groups)
        if not measure:
            return mean, None
        axes = jax.tree.map(lambda dim: self.shard_axis if dim >= 0 else (), self.dims)
        shards = find_shards(mean, self.axis_name or (), axes)
        sq_mean = module_sq_norms(mean, self.labels, shards.shares)
        sq_mean = psum_scalars(sq_mean, shards.axes)
        total = psum_scalars(sum_sq, joined(self.axis_name, self.shard_axis))
        mean_sq = {m: value / num_groups for m, value in total.items()}
        return mean, stats_from_norms(mean_sq, sq_mean, num_groups)

    def _check_one_gather_a_leaf(
        self, loss_fn: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> None:
        expected = sum(dim >= 0 for dim in jax.tree.leaves(self.dims))
        jaxpr = jax.make_jaxpr(loss_fn)(*args, **kwargs)
        found = _count_gathers(jaxpr.jaxpr, self.shard_axis)
        if found != expected:
            raise ValueError(
                f"the loss gathers {found} times over {self.shard_axis!r} but "
                f"{expected} parameters are sharded over it: gather each once, "
                "also one that is used in several places, or its norm is that of parts"
            )


def shard_dims(params: PyTree, shards: int, least_size: int = 2**14) -> PyTree:
    """Choose the dimension of each leaf to shard: the last of the largest that divide.

    Args:
      params: a pytree of arrays or of their shapes.
      shards: how many devices share a leaf.
      least_size: entries below which a leaf stays whole on every device.

    Returns:
      A pytree of int like ``params``; -1 for a leaf that stays whole.

    >>> shard_dims({"w": jnp.ones((3, 256, 64)), "b": jnp.ones(64)}, 4)
    {'b': -1, 'w': 1}
    """

    def choose(leaf: Any) -> int:
        if leaf.size < least_size:
            return -1
        fit = [(n, i) for i, n in enumerate(leaf.shape) if n % shards == 0 and n]
        return max(fit)[1] if fit else -1

    return jax.tree.map(choose, params)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _gather(shard, tap, axis, dim, dtype, shard_dtype):
    """Gather a shard along ``dim``; the tap's gradient is its gradient's square."""
    if dim < 0:
        return shard
    return _plain_gather(shard.astype(dtype), axis, dim).astype(shard_dtype)


def _gather_forward(shard, tap, axis, dim, dtype, shard_dtype):
    return _gather(shard, tap, axis, dim, dtype, shard_dtype), None


def _gather_backward(axis, dim, dtype, shard_dtype, _, cotangent):
    own = cotangent.astype(jnp.promote_types(cotangent.dtype, jnp.float32))
    square = jnp.sum(jnp.square(jnp.abs(own))).astype(jnp.float32)
    if dim < 0:
        total = jax.lax.psum(own, axis)
    else:
        total = jax.lax.psum_scatter(own, axis, scatter_dimension=dim, tiled=True)
    return total.astype(shard_dtype), square


_gather.defvjp(_gather_forward, _gather_backward)


def _plain_gather(leaf: jax.Array, axis: str, dim: int) -> jax.Array:
    """Before: each device has its part of ``dim``. After: everybody has all of it."""
    return leaf if dim < 0 else jax.lax.all_gather(leaf, axis, axis=dim, tiled=True)


def _count_gathers(jaxpr: Any, axis: str) -> int:
    """Count the gathers over an axis in a program; a loop's body counts once."""
    count = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "all_gather":
            axes = equation.params["axis_name"]
            count += axis in (axes if isinstance(axes, tuple) else (axes,))
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                count += _count_gathers(inner, axis)
    return count
