"""The equations: what is computed of gradients, from their products to phi and to mu.

phi, below eq. 3, is each module's relative gradient variance; mu, by eq. 4 and 5, is
the factor on its learning rate.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from agvm_jax.optim.floats import weighted
from agvm_jax.optim.modules import FROZEN, leaf_labels, module_names
from agvm_jax.optim.options import AverageKind, Split

PyTree = Any
ModuleScalars = dict[str, jax.Array]  # module -> () float32

# What the initial mu = 1 counts for beside the measurements of a growing average. The
# first measurement then has a weight of 1/5: with the released code's bounds mu cannot
# go above 1.43 at once, where an average without it may jump to 3.16.
INITIAL_COUNT = 4


class GroupStats(NamedTuple):
    """What one measurement says about every module.

    A group is a share of the batch with its own mean gradient ``g_r``; ``G`` is the
    mean over the groups. With the estimator ``halves`` the groups are the two half
    batches.
    """

    phi: ModuleScalars  # 1 - cos between half batches, in [0, 2]; nan: no measurement
    mean_sq: ModuleScalars  # mean over the groups of ||g_r||^2
    sq_mean: ModuleScalars  # ||G||^2
    num_groups: jax.Array  # () int32


def module_vdot(
    a: PyTree, b: PyTree, labels: PyTree, shares: Sequence[float] | None = None
) -> ModuleScalars:
    """Return each module's inner product of two gradients, summed in float32.

    Args:
      a, b: pytrees of gradients.
      labels: pytree of str shaped like them, from ``label_tree``.
      shares: None, or what each leaf's product counts for (``replicas.Shards``).

    >>> grads = {"fpn": jnp.array([3.0, 4.0]), "rpn": jnp.array([1.0])}
    >>> dots = module_vdot(grads, grads, {"fpn": "fpn", "rpn": "rpn"})
    >>> {name: float(dot) for name, dot in dots.items()}
    {'fpn': 25.0, 'rpn': 1.0}
    """
    return _vdots([(a, b)], labels, shares)[0]


def _vdots(
    pairs: Sequence[tuple[PyTree, PyTree]],
    labels: PyTree,
    shares: Sequence[float] | None,
) -> list[ModuleScalars]:
    """Return the inner products of ``module_vdot`` of each pair."""
    flat = leaf_labels(labels, pairs[0][0])
    names = sorted({*flat} - {FROZEN})
    shares = [1.0] * len(flat) if shares is None else shares
    products = []
    for pair in pairs:
        totals = {name: jnp.zeros((), jnp.float32) for name in names}
        leaves = zip(*map(jax.tree.leaves, pair), strict=True)
        for label, share, (x, y) in zip(flat, shares, leaves, strict=True):
            if label != FROZEN:
                product = float32_vdot(jnp.asarray(x), jnp.asarray(y))
                totals[label] += product if share == 1.0 else product * share
        products.append(totals)
    return products


def module_sq_norms(
    grads: PyTree, labels: PyTree, shares: Sequence[float] | None = None
) -> ModuleScalars:
    """Return each module's squared gradient norm, summed in float32."""
    return module_vdot(grads, grads, labels, shares)


def phi_from_halves(dot: jax.Array, sq_a: jax.Array, sq_b: jax.Array) -> jax.Array:
    """Return phi = 1 - cos(a, b) of two half-batch gradients (AGVM, below eq. 3).

    The learning rate in the paper's Phi cancels in every ratio and is left out.

    Args:
      dot: a . b, any shape.
      sq_a: ||a||^2.
      sq_b: ||b||^2.

    Returns:
      float32 in [0, 2], or nan, "no measurement", where a half is zero or not finite.

    >>> float(phi_from_halves(jnp.array(0.0), jnp.array(1.0), jnp.array(4.0)))
    1.0
    """
    # Two roots, not the root of a product: the product leaves float32's range first.
    norms = jnp.sqrt(sq_a) * jnp.sqrt(sq_b)
    known = (norms > 0) & jnp.isfinite(norms) & jnp.isfinite(dot)
    cos = jnp.where(known, dot, 0.0) / jnp.where(known, norms, 1.0)
    return jnp.where(known, jnp.clip(1.0 - cos, 0.0, 2.0), jnp.nan)


def phi_from_norms(
    mean_sq: jax.Array, sq_mean: jax.Array, num_groups: int | jax.Array
) -> jax.Array:
    """Return phi from norms alone: the average over all equal splits of the groups.

    With q the mean of ||g_r||^2 and G the mean gradient of R groups,
    ``V = (q - ||G||^2) / (R - 1)`` is the variance of G, and over all splits in two
    equal halves a . b averages to ``||G||^2 - V`` and (||a||^2 + ||b||^2) / 2 to
    ``||G||^2 + V``. So ``phi = 1 - cos = 2 V / (||G||^2 + V)``. This form is ours; the
    paper and the released code take one split.

    Args:
      mean_sq: q, any shape.
      sq_mean: ||G||^2.
      num_groups: R, at least 2.

    Returns:
      float32 in [0, 2], or nan, "no measurement", where all is zero or not finite.

    >>> float(phi_from_norms(jnp.array(1.0), jnp.array(0.5), 2))  # orthogonal
    1.0
    """
    # Rounding can push equal gradients below zero variance.
    variance = jnp.maximum(mean_sq - sq_mean, 0.0) / (num_groups - 1)
    total = sq_mean + variance
    known = (total > 0) & jnp.isfinite(total)
    ratio = jnp.where(known, variance, 0.0) / jnp.where(known, total, 1.0)
    return jnp.where(known, jnp.clip(2.0 * ratio, 0.0, 2.0), jnp.nan)


def stats_from_products(
    dot: ModuleScalars, sq_a: ModuleScalars, sq_b: ModuleScalars
) -> GroupStats:
    """Return the statistics of two half-batch gradients from their three products."""
    return GroupStats(
        phi={m: phi_from_halves(dot[m], sq_a[m], sq_b[m]) for m in dot},
        mean_sq={m: (sq_a[m] + sq_b[m]) / 2 for m in dot},
        # ||(a + b) / 2||^2; rounding can push opposite halves below zero.
        sq_mean={
            m: jnp.maximum((sq_a[m] + sq_b[m]) / 4 + dot[m] / 2, 0.0) for m in dot
        },
        num_groups=jnp.asarray(2, jnp.int32),
    )


def products_of_halves(
    a: PyTree,
    b: PyTree,
    labels: PyTree,
    weights: PyTree | None = None,
    shares: Sequence[float] | None = None,
) -> dict[str, jax.Array]:
    """Return (3,) float32 a module: a . b, ||a||^2, ||b||^2 of two mean gradients."""
    a, b = weighted(weights, a), weighted(weights, b)
    products = _vdots([(a, b), (a, a), (b, b)], labels, shares)
    return {m: jnp.stack([product[m] for product in products]) for m in products[0]}


def stats_from_halves(products: dict[str, jax.Array]) -> GroupStats:
    """Return the statistics from ``products_of_halves``."""
    return stats_from_products(
        *({m: value[i] for m, value in products.items()} for i in range(3))
    )


def no_stats(labels: PyTree, num_groups: int) -> GroupStats:
    """Return what stands for a measurement that was not made: nan everywhere."""
    nan = dict.fromkeys(module_names(labels), jnp.full((), jnp.nan, jnp.float32))
    return GroupStats(nan, dict(nan), dict(nan), jnp.asarray(num_groups, jnp.int32))


def half_of(index: jax.Array, num_groups: int, split: Split) -> jax.Array:
    """Return 0 or 1: the half that group ``index`` belongs to."""
    if split == "interleaved":
        return index % 2
    return (index >= num_groups // 2).astype(jnp.int32)


def stats_from_norms(
    mean_sq: ModuleScalars, sq_mean: ModuleScalars, num_groups: int
) -> GroupStats:
    """Return the statistics of ``num_groups`` groups from their norms."""
    phi = {m: phi_from_norms(mean_sq[m], sq_mean[m], num_groups) for m in mean_sq}
    return GroupStats(phi, mean_sq, sq_mean, jnp.asarray(num_groups, jnp.int32))


class Average(NamedTuple):
    """mu of each module, and how many measurements it was made of."""

    mu: ModuleScalars
    measured: ModuleScalars


def variance_ratios(
    phi: ModuleScalars,
    anchor: str,
    clip: tuple[float, float] | None = (0.5, 10.0),
    eps: float | jax.Array = 1e-6,
) -> ModuleScalars:
    """Return sqrt(clip((phi_anchor + eps) / (phi_i + eps))) of each module (eq. 4).

    Clipping before the root and eps are the released code's. nan where a phi is nan.

    >>> phi = {"backbone": jnp.array(0.8), "fpn": jnp.array(0.2)}
    >>> {m: round(float(r), 3) for m, r in variance_ratios(phi, "backbone").items()}
    {'backbone': 1.0, 'fpn': 2.0}
    """
    ratios = {m: (phi[anchor] + eps) / (phi[m] + eps) for m in phi}
    if clip is not None:
        ratios = {m: jnp.clip(ratio, *clip) for m, ratio in ratios.items()}
    return {m: jnp.sqrt(ratio) for m, ratio in ratios.items()}


def smooth(
    old: Average,
    ratios: ModuleScalars,
    alpha: float | jax.Array,
    average: AverageKind = "paper",
    due: bool | jax.Array = True,
) -> Average:
    """Return mu after ``mu <- alpha mu + (1 - alpha) r`` (eq. 5).

    Args:
      old: the average before.
      ratios: r of each module; one that is not finite leaves its module as it was.
      alpha: the smoothing; what lies outside [0, 1] is taken to its nearer end, and
        nan counts as no measurement.
      average: "paper" smooths with alpha from the first measurement on. "growing" is
        for short runs: the plain mean of the measurements so far and of
        ``INITIAL_COUNT`` ones, until its memory is that of alpha.
      due: whether this measurement counts at all.

    >>> start = Average({"fpn": jnp.array(1.0)}, {"fpn": jnp.array(0.0)})
    >>> float(smooth(start, {"fpn": jnp.array(2.0)}, alpha=0.75).mu["fpn"])
    1.25
    >>> mean = smooth(start, {"fpn": jnp.array(2.0)}, 0.97, "growing")
    >>> round(float(mean.mu["fpn"]), 3)  # (1 + 1 + 1 + 1 + 2) / 5
    1.2
    """
    alpha = jnp.clip(jnp.asarray(alpha, jnp.float32), 0.0, 1.0)
    mu, measured = {}, {}
    for m, ratio in ratios.items():
        seen = jnp.isfinite(ratio) & due & ~jnp.isnan(alpha)
        keep = alpha
        if average == "growing":
            count = old.measured[m] + INITIAL_COUNT
            keep = jnp.minimum(alpha, count / (count + 1.0))
        new = old.mu[m] + (1.0 - keep) * (ratio - old.mu[m])
        mu[m] = jnp.where(seen, new, old.mu[m])
        measured[m] = old.measured[m] + seen
    return Average(mu, measured)


def float32_vdot(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the real inner product of two arrays of any float dtype, in float32."""
    if jnp.iscomplexobj(x):
        return float32_vdot(x.real, y.real) + float32_vdot(x.imag, y.imag)
    return jnp.sum(x.astype(jnp.float32) * y.astype(jnp.float32))
