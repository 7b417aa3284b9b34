"""The large-batch baselines that AGVM is compared with, as their authors define them.

Optax has LARS, LAMB and SAM; what is added here is what a fair comparison needs and
Optax leaves to the user: the exclusion of biases and norms from decay and trust ratio,
SGD in PyTorch's order, PMD-LAMB, and a SAM gradient that fits inside a train step.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agvm_jax.optim.modules import leaf_paths

MaskOrFn = Any | Callable[[optax.Params], Any] | None


def matrices_only(params: optax.Params) -> Any:
    """Return True for every leaf of two or more dimensions: kernels, not biases.

    The official LARS and LAMB leave biases and the scales and offsets of norms out of
    weight decay and of the trust ratio. In a network these are its leaves of one
    dimension.

    >>> matrices_only({"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)})
    {'bias': False, 'kernel': True}
    """
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)


def all_but(words: Sequence[str]) -> Callable[[optax.Params], Any]:
    """Return a mask function: False for leaves with one of `words` in their path.

    A path is the keys joined by slashes: ``backbone/layer1/0/norm1/scale``.

    The function raises ValueError for a word that is in no path.

    >>> all_but(["norm"])({"fc": 1.0, "norm1": {"scale": 1.0}})
    {'fc': True, 'norm1': {'scale': False}}
    """

    def mask(params: optax.Params) -> Any:
        paths = leaf_paths(params)
        for word in words:
            if not any(word in path for path in paths):
                raise ValueError(
                    f"no parameter has {word!r} in its path, so there is nothing to "
                    f"leave out; paths look like {paths[0]!r}"
                )
        kept = [not any(word in path for word in words) for path in paths]
        return jax.tree.unflatten(jax.tree.structure(params), kept)

    return mask


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    mask: MaskOrFn = None,
) -> optax.GradientTransformation:
    """SGD as PyTorch and the released AGVM code have it.

    buf <- momentum buf + (g + weight_decay w);  w <- w - lr buf. The decay passes
    through the momentum and nothing is damped by (1 - momentum), so the rate is the
    one that detection papers print. `mask` is True where the decay applies; None is
    everywhere.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov),
    )


def lars(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    trust_coefficient: float = 0.001,
    mask: MaskOrFn = matrices_only,
) -> optax.GradientTransformation:
    """LARS with biases and norms left out of weight decay and trust ratio.

    Each kernel's g + weight_decay w is multiplied by
    trust_coefficient ||w|| / ||g + weight_decay w||, then by the rate, then enters the
    momentum. `mask` is True where decay and ratio apply; `mask=True` applies both
    everywhere.

    References:
      You et al., Large Batch Training of Convolutional Networks, arXiv 1708.03888.
    """
    return optax.lars(
        learning_rate,
        weight_decay=weight_decay,
        weight_decay_mask=mask,
        trust_coefficient=trust_coefficient,
        trust_ratio_mask=mask,
        momentum=momentum,
    )


def lamb(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    weight_decay: float = 0.01,
    mask: MaskOrFn = matrices_only,
) -> optax.GradientTransformation:
    """LAMB with biases and norms left out of weight decay and trust ratio.

    `optax.lamb(mask=...)` masks the decay alone; the authors' code masks the trust
    ratio too. `mask=None` applies both everywhere and is `optax.lamb` exactly.

    References:
      You et al., Large Batch Optimization for Deep Learning, arXiv 1904.00962.
    """
    return _lamb_around(
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps), learning_rate, weight_decay, mask
    )


def pmd_lamb(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    weight_decay: float = 0.01,
    period: int = 10,
    decay: float = 0.1,
    mask: MaskOrFn = matrices_only,
) -> optax.GradientTransformation:
    """PMD-LAMB, a reconstruction: LAMB whose moments are decayed every `period` steps.

    Only the abstract of the paper could be had: "Periodical Moments Decay", against
    "the lagging historical gradients". Period, factor and bias correction below are
    ours; see `scale_by_periodic_moments`. `decay=1` is `lamb` bit for bit, and with
    `mask=None` it is `optax.lamb` bit for bit; `decay=0` restarts the moments.

    References:
      Wang et al., Large Batch Optimization for Object Detection: Training COCO in 12
      Minutes, ECCV 2020.
    """
    return _lamb_around(
        scale_by_periodic_moments(b1, b2, eps, period, decay),
        learning_rate,
        weight_decay,
        mask,
    )


def _lamb_around(
    moments: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: float,
    mask: MaskOrFn,
) -> optax.GradientTransformation:
    ratio = optax.scale_by_trust_ratio()
    return optax.chain(
        moments,
        optax.add_decayed_weights(weight_decay, mask),
        ratio if mask is None else optax.masked(ratio, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


class PeriodicMomentsState(NamedTuple):
    """State of `scale_by_periodic_moments`."""

    count: jax.Array  # () int32: updates seen
    mu: optax.Updates  # first moment, like the parameters
    nu: optax.Updates  # second moment, like the parameters
    lost: jax.Array  # (2,) float32: weight taken from mu and nu by the decays


def scale_by_periodic_moments(
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    period: int = 10,
    decay: float = 0.1,
) -> optax.GradientTransformation:
    """Adam's rescaling with both moments multiplied by `decay` every `period` steps.

    The moments stay weighted averages of past gradients. Adam divides by the sum of
    the weights, 1 - b ** t; each decay takes weight away, which is counted in `lost`
    and left out of that divisor. Without this, a decay of 0.1 every 10 steps would
    make the second moment, and so the update of every parameter without a trust
    ratio, wrong by a factor of about ten.

    Raises:
      ValueError: for a period below 1 or a decay outside [0, 1].
    """
    if _is_number(period) and period < 1:
        raise ValueError(f"The period is {period} steps; it must be at least 1.")
    if _is_number(decay) and not 0 <= decay <= 1:
        raise ValueError(
            f"The moments' decay is {decay}; it must lie in [0, 1]: 1 is plain LAMB, 0 "
            "restarts the moments."
        )

    def init_fn(params):
        return PeriodicMomentsState(
            count=jnp.zeros([], jnp.int32),
            mu=optax.tree.zeros_like(params),
            nu=optax.tree.zeros_like(params),
            lost=jnp.zeros([2], jnp.float32),
        )

    def update_fn(updates, state, params=None):
        del params
        count = jnp.asarray(optax.safe_increment(state.count))
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        betas = jnp.asarray([b1, b2], jnp.float32)
        weight = 1 - betas**count  # what Adam divides by
        lost = betas * state.lost
        # Without decays nothing is lost and the factor is 1.0: Adam to the last bit.
        factor = weight / (weight - lost)
        mu_hat = optax.tree.bias_correction(mu, b1, count)
        nu_hat = optax.tree.bias_correction(nu, b2, count)

        def rescale(m, v):
            m = m * factor[0].astype(m.dtype)
            v = v * factor[1].astype(v.dtype)
            return m / (jnp.sqrt(v) + eps)

        scaled = jax.tree.map(rescale, mu_hat, nu_hat)
        keep = jnp.where(count % period == 0, decay, 1.0)
        lost = lost + (1 - keep) * (weight - lost)
        mu, nu = jax.tree.map(lambda x: x * keep.astype(x.dtype), (mu, nu))
        return scaled, PeriodicMomentsState(count, mu, nu, lost)

    return optax.GradientTransformation(init_fn, update_fn)


def sam_value_and_grad(
    value_and_grad_fn: Callable[..., tuple[Any, optax.Updates]],
    rho: float,
    axis_name: str | None = None,
    synced: bool = False,
) -> Callable[..., tuple[Any, optax.Updates]]:
    """Return a function that takes the gradient at the sharpest point nearby (SAM).

    g is taken at w, then again at w + rho g / ||g||, the norm being over all
    parameters. The returned gradient is the second one. The value (loss, and whatever
    else comes with it, such as BatchNorm statistics) is of the first, clean pass.

    Args:
      value_and_grad_fn: `f(params, *args) -> (value, gradients)`.
      rho: length of the perturbation, in the units of the parameters.
      axis_name: the mapped axis of the replicas, for `synced`.
      synced: perturb all replicas by their mean gradient. False, the authors' default,
        perturbs each replica by its own gradient: m-sharpness, m being the replica's
        (or micro-batch's) batch. The returned gradient is local in both cases.

    Raises:
      ValueError: for a negative or infinite rho, or `synced` without an axis.

    References:
      Foret et al., Sharpness-Aware Minimization, arXiv 2010.01412.
    """
    if not 0 <= rho < math.inf:
        raise ValueError(f"SAM's rho is {rho}; it must be 0 or more, and finite.")
    if synced and axis_name is None:
        raise ValueError(
            "Synced SAM averages the first gradient over the replicas: give axis_name."
        )

    def value_and_grad(params, *args, **kwargs):
        value, grads = value_and_grad_fn(params, *args, **kwargs)
        if synced:
            # Before: each replica's own gradient. After: their mean, on every replica.
            grads = jax.lax.pmean(grads, axis_name)
        grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
        norm = optax.tree.norm(grads)
        # A zero gradient has no direction: stay.
        step = jnp.where(norm > 0, rho / jnp.where(norm > 0, norm, 1.0), 0.0)
        sharpest = jax.tree.map(
            lambda w, g: (w + step * g).astype(w.dtype), params, grads
        )
        _, grads = value_and_grad_fn(sharpest, *args, **kwargs)
        return value, grads

    return value_and_grad


def _is_number(value: Any) -> bool:
    # inject_hyperparams passes arrays and tracers, whose values cannot be judged here.
    return isinstance(value, int | float)
