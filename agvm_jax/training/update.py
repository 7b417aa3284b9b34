"""The end of a step: from the mean gradients of all replicas to the next state.

`updated` sends nothing by itself. It runs inside ``shard_map``, on arrays that every
replica has whole; or under plain ``jit`` on global arrays that are sharded, where every
norm that an optimizer takes is still that of the whole array.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agvm_jax.optim.noise import noise_update, update_variance
from agvm_jax.optim.variance import GroupStats, module_sq_norms
from agvm_jax.training.averaging import moved
from agvm_jax.training.recipes import Recipe
from agvm_jax.training.state import TrainState


class Reduced(NamedTuple):
    """What all replicas have found together.

    Attributes:
      grads: the mean gradients.
      stats: phi and the norms, nan where nothing was measured; None for one group.
      loss: () float32, the mean loss.
      parts: dict of () float32, the means of its parts.
      model_state: BatchNorm statistics after the step.
    """

    grads: Any
    stats: GroupStats | None
    loss: jax.Array
    parts: dict[str, jax.Array]
    model_state: Any


def updated(
    state: TrainState,
    reduced: Reduced,
    measure: bool,
    *,
    recipe: Recipe,
    labels: Any,
    batch_size: int,
    num_images: int | None,
    lay: Callable[[Any], Any] = lambda tree: tree,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Updates the state; if anything was not finite, only its counts move on.

    Args:
      state: before the step.
      reduced: what the step found.
      measure: whether phi is among it.
      recipe: the optimizer.
      labels: the module of every parameter.
      batch_size: images in the step.
      num_images: in the training set, for eq. 3; None if there is no end of them.
      lay: lays a pytree like the parameters out as the optimizer's state is.

    Returns:
      The state after, and the metrics that `TrainStep.__call__` lists.
    """
    grads, stats = reduced.grads, reduced.stats
    squares = module_sq_norms(grads, labels)
    finite = jnp.isfinite(reduced.loss)
    for square in squares.values():
        finite &= jnp.isfinite(square)

    def accept(new, old):
        return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)

    phi = {"phi": stats.phi} if recipe.agvm else {}
    former = lay(state.params)
    updates, opt_state = recipe.tx.update(grads, state.opt_state, former, **phi)
    params = lay(optax.apply_updates(former, lay(updates)))
    noise, average = state.noise, state.average
    if measure:
        noise = noise_update(noise, stats, batch_size=batch_size)
    if average is not None:
        average = moved(
            average, params, reduced.model_state, state.step, recipe.ema_decay
        )
    new_state = TrainState(
        step=state.step + 1,
        # Laid out once more, or it would be chosen where both are whole: two gathers.
        params=lay(accept(params, former)),
        model_state=accept(reduced.model_state, state.model_state),
        # Counts are the clock of schedules, and a skipped step took its time.
        opt_state=with_counts_of(opt_state, accept(opt_state, state.opt_state)),
        noise=accept(noise, state.noise),
        key=state.key,
        skipped=jnp.where(finite, 0, state.skipped + 1),
        average=accept(average, state.average),
    )
    metrics = {
        "loss": reduced.loss,
        "finite": finite,
        "skipped": new_state.skipped,
        "grad_norm": jnp.sqrt(sum(squares.values())),
        **{f"loss/{name}": part for name, part in reduced.parts.items()},
        **{f"grad_norm/{name}": jnp.sqrt(sq) for name, sq in squares.items()},
    }
    if measure:
        metrics |= {f"phi/{name}": value for name, value in stats.phi.items()}
        variances = update_variance(
            stats,
            rate=recipe.schedule(state.step),
            batch_size=batch_size,
            num_images=num_images,
        )
        metrics |= {f"update_variance/{k}": v for k, v in variances.items()}
    if recipe.agvm:
        mu = optax.tree.get(new_state.opt_state, "AgvmState").mu
        metrics |= {f"mu/{name}": value for name, value in mu.items()}
    return new_state, metrics


def with_counts_of(clock: Any, opt_state: Any) -> Any:
    """Returns an optimizer's state with the counts of another.

    Counts are its integer scalars: optax and `agvm` count steps in them and nothing
    else.

    Args:
      clock: the state that tells the time.
      opt_state: the state that is wanted otherwise; of the same structure.
    """

    def leaf(theirs, ours):
        count = jnp.ndim(ours) == 0 and jnp.issubdtype(ours.dtype, jnp.integer)
        return theirs if count else ours

    return jax.tree.map(leaf, clock, opt_state)
