"""phi and mean of gradients that carry a leading axis of groups: for plain ``jit``."""

from typing import Any

import jax
import jax.numpy as jnp

from agvm_jax.optim.floats import map_floats, wide
from agvm_jax.optim.modules import leaf_paths
from agvm_jax.optim.options import Estimator, Split, check_groups
from agvm_jax.optim.variance import (
    GroupStats,
    ModuleScalars,
    half_of,
    module_sq_norms,
    products_of_halves,
    stats_from_halves,
    stats_from_norms,
)

PyTree = Any


def mean_and_phi_of_groups(
    stacked_grads: PyTree,
    labels: PyTree,
    estimator: Estimator = "halves",
    split: Split = "interleaved",
) -> tuple[PyTree, GroupStats]:
    """Average gradients over a leading axis of groups and measure each module's phi.

    Arguments as in ``stats_of_groups``. The leading axis may be sharded: this is the
    form for plain ``jit``.

    >>> grads = {"fpn": jnp.array([[2.0, 0.0], [0.0, 2.0]])}
    >>> mean, stats = mean_and_phi_of_groups(grads, {"fpn": "fpn"})
    >>> mean["fpn"].tolist(), float(stats.phi["fpn"])
    ([1.0, 1.0], 1.0)
    """
    stats = stats_of_groups(stacked_grads, labels, estimator, split)
    mean = map_floats(lambda g: wide(g).mean(0).astype(g.dtype), stacked_grads)
    return mean, stats


def stats_of_groups(
    stacked_grads: PyTree,
    labels: PyTree,
    estimator: Estimator = "halves",
    split: Split = "interleaved",
) -> GroupStats:
    """Return the statistics of gradients that carry a leading axis of groups.

    The leading axis may be sharded over devices: under plain ``jit`` XLA then reduces
    over it as it would for a mean.

    Args:
      stacked_grads: pytree whose leaves are (R, ...), R groups of equal size.
      labels: pytree of str shaped like one group's gradients, from ``label_tree``.
      estimator: "halves", the paper's one cosine, or "norms", ours (see
        ``phi_from_norms``).
      split: for halves: "interleaved", the paper's odd and even groups, or
        "contiguous", the released code's first and second half.

    Raises:
      ValueError: one group only, leading axes that differ, or an odd R with halves.
    """
    num_groups = count_groups(stacked_grads)
    check_groups(num_groups, estimator, split)
    if estimator == "norms":
        mean = map_floats(lambda g: wide(g).mean(0), stacked_grads)
        total = module_sq_norms(stacked_grads, labels)
        mean_sq = {m: value / num_groups for m, value in total.items()}
        return stats_from_norms(mean_sq, module_sq_norms(mean, labels), num_groups)
    a, b = halves_of_groups(stacked_grads, num_groups, split)
    return stats_from_halves(products_of_halves(a, b, labels))


def phi_of_groups(
    stacked_grads: PyTree,
    labels: PyTree,
    estimator: Estimator = "halves",
    split: Split = "interleaved",
) -> ModuleScalars:
    """Return phi of each module; arguments as in ``stats_of_groups``.

    >>> grads = {"fpn": jnp.array([[1.0, 0.0], [0.0, 1.0]])}  # two orthogonal groups
    >>> float(phi_of_groups(grads, {"fpn": "fpn"})["fpn"])
    1.0
    """
    return stats_of_groups(stacked_grads, labels, estimator, split).phi


def halves_of_groups(
    stacked_grads: PyTree, num_groups: int, split: Split
) -> tuple[PyTree, PyTree]:
    """Return the float32 mean gradients of the two halves of the groups."""
    half = half_of(jnp.arange(num_groups), num_groups, split)

    def mean_of(which: int) -> PyTree:
        # A masked sum, not a strided slice: it keeps a sharded leading axis in place.
        def leaf(g: jax.Array) -> jax.Array:
            mine = (half == which).reshape((num_groups,) + (1,) * (g.ndim - 1))
            return jnp.where(mine, wide(g), 0).sum(0) / (num_groups // 2)

        return map_floats(leaf, stacked_grads)

    return mean_of(0), mean_of(1)


def count_groups(stacked_grads: PyTree) -> int:
    """Return the length of the leading axis that all leaves share."""
    sizes = {}
    for path, leaf in zip(
        leaf_paths(stacked_grads), jax.tree.leaves(stacked_grads), strict=True
    ):
        if jnp.ndim(leaf) == 0:
            raise ValueError(f"gradient {path!r} has no leading axis of groups")
        sizes.setdefault(jnp.shape(leaf)[0], path)
    if len(sizes) != 1:
        raise ValueError(
            "gradients must share one leading axis of groups, found lengths "
            f"{ {path: size for size, path in sizes.items()} }"
        )
    return next(iter(sizes))
