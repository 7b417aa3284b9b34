"""A few steps on a small noisy problem, and the parameters that are evaluated."""

import jax
import jax.numpy as jnp
import optax
from optax import contrib
from optax_cases import PARAMS, RNG

NOISE = [
    jax.tree.map(
        lambda p: jnp.asarray(RNG.normal(size=p.shape), jnp.float32) / 4, PARAMS
    )
    for _ in range(3)
]


def loss(params):
    curvature = {"backbone": 1.0, "head": 3.0}
    return sum(
        curvature[m] * 0.5 * jnp.sum((params[m]["kernel"] - 0.2) ** 2) for m in params
    )


value_and_grad = jax.jit(jax.value_and_grad(loss))


def run(tx, own=None, per_example=False, compiled=False, steps=3, **extra_args):
    """Return the evaluated parameters after each step.

    Args:
      own: what this replica's gradients of the backbone have on top.
    """
    # MultiSteps itself hands phi on, its gradient_transformation() does not.
    several = isinstance(tx, optax.MultiSteps)
    update = (tx if several else optax.with_extra_args_support(tx)).update
    if compiled:
        update = jax.jit(update, static_argnames=("value_fn", "obj_fn"))
    params, seen = PARAMS, []
    with_slow = optax.LookaheadParams.init_synced(params)
    state = tx.init(params)
    slow = isinstance(state, optax.LookaheadState)
    for noise in NOISE[:steps]:
        value, grads = value_and_grad(params)
        grads = jax.tree.map(jnp.add, grads, noise)
        if own is not None:
            backbone = jax.tree.map(lambda g: g + own, grads["backbone"])
            grads = {**grads, "backbone": backbone}
        incoming = jax.tree.map(lambda g: jnp.stack([g, -g / 2]), grads)
        updates, state = update(
            incoming if per_example else grads,
            state,
            with_slow if slow else params,
            value=value,
            grad=grads,
            value_fn=loss,
            **extra_args,
        )
        if slow:
            with_slow = optax.apply_updates(with_slow, updates)
            params = with_slow.fast
            seen.append(with_slow.slow)
            continue
        params = optax.apply_updates(params, updates)
        averaged = isinstance(state, contrib.ScheduleFreeState)
        seen.append(
            contrib.schedule_free_eval_params(state, params) if averaged else params
        )
    return seen
