"""The gradient noise scale of each module: how large a batch is still worth its cost.

The scalars that AGVM measures anyway say how much of a gradient is noise. Below the
noise scale, doubling the batch nearly halves the steps needed; above it, doubling
brings little. The state is a pytree that a train step can carry and checkpoint.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

ALL = "all"


class GroupSquares(Protocol):
    """What is needed of a measurement: `variance.GroupStats` has it.

    phi: module -> 1 - cos of the half batches' gradients.
    mean_sq: module -> mean over the groups of ||g_r||^2.
    sq_mean: module -> ||mean of g_r||^2.
    num_groups: R, the groups of equal size that were compared; 2 or more.
    """

    phi: Mapping[str, jax.Array]
    mean_sq: Mapping[str, jax.Array]
    sq_mean: Mapping[str, jax.Array]
    num_groups: int | jax.Array


class NoiseState(NamedTuple):
    """Moving averages from which the noise scale is read.

    Both start at 0 with the same weights, so that their ratio needs no de-biasing.
    """

    count: jax.Array  # () int32: measurements taken in
    noise: dict[str, jax.Array]  # () float32: trace of one image's gradient covariance
    signal: dict[str, jax.Array]  # () float32: squared norm of the true gradient


def noise_init(names: Iterable[str]) -> NoiseState:
    """Return an empty state for these modules.

    Raises:
      ValueError: if there is no module, or one is called "all".
    """
    names = tuple(names)
    if not names:
        raise ValueError("The noise scale needs at least one module name; got none.")
    if ALL in names:
        raise ValueError(f"{ALL!r} stands for the whole model; rename that module.")
    return NoiseState(
        count=jnp.zeros([], jnp.int32),
        noise={name: jnp.zeros([], jnp.float32) for name in names},
        signal={name: jnp.zeros([], jnp.float32) for name in names},
    )


def noise_update(
    state: NoiseState, stats: GroupSquares, *, batch_size: int, decay: float = 0.99
) -> NoiseState:
    """Take one measurement in; `batch_size` is the number of images in all the groups.

    With R groups, q the mean of ||g_r||^2 and G the mean gradient of B images,
    V = (q - ||G||^2) / (R - 1) is an unbiased estimate of the variance of G. One
    image's gradient has the variance B V, and the true gradient the squared norm
    ||G||^2 - V. Either may be negative in a single step; their averages are what is
    divided, never the average of a ratio. It is the same for any number of groups, so
    also for the two halves of the paper's estimator.

    A measurement with a number that is not finite is left out.

    Raises:
      ValueError: for a batch size below 1 or a decay outside [0, 1).
    """
    if batch_size < 1:
        raise ValueError(f"The batch size is {batch_size} images; it must be above 0.")
    if not 0 <= decay < 1:
        raise ValueError(f"The noise scale's decay is {decay}; it must be in [0, 1).")
    noise, signal = {}, {}
    for name in state.noise:
        mean_sq = jnp.asarray(stats.mean_sq[name], jnp.float32)
        sq_mean = jnp.asarray(stats.sq_mean[name], jnp.float32)
        variance = (mean_sq - sq_mean) / (stats.num_groups - 1)
        noise[name] = variance * batch_size
        signal[name] = sq_mean - variance
    finite = jnp.all(
        jnp.stack([jnp.isfinite(x) for x in (*noise.values(), *signal.values())])
    )

    def smooth(old, new):
        return jnp.where(finite, decay * old + (1 - decay) * new, old)

    return NoiseState(
        count=state.count + finite.astype(jnp.int32),
        noise=jax.tree.map(smooth, state.noise, noise),
        signal=jax.tree.map(smooth, state.signal, signal),
    )


def update_variance(
    stats: GroupSquares,
    *,
    rate: float | jax.Array,
    batch_size: int,
    num_images: int | None = None,
) -> dict[str, jax.Array]:
    """Return the variance of each module's update before modulation: eq. 3, whole.

    ``Var(eta g) = (n - b) / (2 n - b) * eta^2 * phi * ||g||^2``, the trace of the
    covariance, with phi = 1 - cos and g the mean gradient. AGVM needs phi alone, since
    the rest is the same for all modules but for ||g||, which eq. 4 leaves out.

    Args:
      stats: a measurement.
      rate: eta, the learning rate of this step before any mu.
      batch_size: b, images a step.
      num_images: n, images in the training set; None: no end of them, a factor of 1/2.

    Returns:
      module -> () float32, at least 0; 0 if a batch holds the whole set.
    """
    share = 0.5
    if num_images is not None:
        n, b = num_images, min(batch_size, num_images)
        share = (n - b) / (2 * n - b)
    factor = share * jnp.asarray(rate, jnp.float32) ** 2
    return {m: factor * stats.phi[m] * stats.sq_mean[m] for m in stats.phi}


def noise_scale(state: NoiseState) -> dict[str, jax.Array]:
    """Return the noise scale in images, per module and for "all" of them together.

    nan before the first measurement; inf where no signal stands out from the noise; 0
    where the groups agree as well as, or better than, equal gradients would.

    References:
      McCandlish et al., An Empirical Model of Large-Batch Training, arXiv 1812.06162.
    """
    noise = {**state.noise, ALL: sum(state.noise.values())}
    signal = {**state.signal, ALL: sum(state.signal.values())}

    def scale(n, s):
        n = jnp.maximum(n, 0.0)
        ratio = jnp.where(s > 0, n / jnp.where(s > 0, s, 1.0), jnp.inf)
        # A module without gradient has neither noise nor signal: nothing is known.
        known = (state.count > 0) & ((n > 0) | (s > 0))
        return jnp.where(known, ratio, jnp.nan)

    return {name: scale(noise[name], signal[name]) for name in noise}


def useful_batch_sentence(scales: Mapping[str, float], batch_size: int) -> str:
    """Say in words what `noise_scale` found in a run at `batch_size`. For the host.

    >>> import textwrap
    >>> scales = {"backbone": 2310.0, "all": 1240.0}
    >>> print(textwrap.fill(useful_batch_sentence(scales, 64), 76))
    Beyond a batch of about 1,200 images this run would have gained little (it
    used 64): there a step already makes half the progress that an endless batch
    would make. Per module: backbone 2,300.
    """
    whole = float(scales[ALL])
    if np.isnan(whole):
        return (
            "The useful batch size is not known: no gradient noise was measured. It "
            "takes two replicas or micro-batches a step."
        )
    if np.isinf(whole):
        start = (
            f"No useful limit of the batch was seen at {batch_size:,}: the gradient "
            "was noise throughout, so a larger batch would have helped."
        )
    else:
        start = (
            f"Beyond a batch of {_images(whole)} images this run would have gained "
            f"little (it used {batch_size:,}): there a step already makes half the "
            "progress that an endless batch would make."
        )
    modules = [
        f"{name} {_images(float(value)).removeprefix('about ')}"
        for name, value in scales.items()
        if name != ALL
    ]
    return f"{start} Per module: {', '.join(modules)}."


def _images(value: float) -> str:
    if np.isnan(value):
        return "unknown"
    if np.isinf(value):
        return "no limit seen"
    if value < 1:
        return "1"
    return f"about {int(float(f'{value:.2g}')):,}"
