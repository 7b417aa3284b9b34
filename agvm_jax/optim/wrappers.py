"""What of Optax goes around AGVM instead of under its scale, and how it is told.

AGVM scales the update of a base optimizer. Some transforms put out something else: a
step towards an iterate that they keep themselves, or one that they have checked. Scaled
behind their back they lose their place: ``schedule_free`` averages steps that were
never taken, ``keep_params_nonnegative`` lets a parameter pass zero.

Optax's closures look alike from outside, so a transform is known by the type of state
that its ``init`` gives. Only ``keep_params_nonnegative`` has none of its own.
"""

import functools
import inspect
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

PyTree = Any


class Remedy(NamedTuple):
    """How a transform is called, what it does, and what to write instead."""

    name: str
    does: str
    instead: str


# What computes the next parameters from iterates of its own, by its state.
_OWN_ITERATES = "computes its updates from iterates that it keeps"
KEEPERS = {
    contrib.ScheduleFreeState: Remedy(
        "schedule_free",
        _OWN_ITERATES,
        "schedule_free(modulate(optimizer, ...), learning_rate)",
    ),
    contrib.MechanicState: Remedy(
        "mechanize", _OWN_ITERATES, "mechanize(modulate(optimizer, ...))"
    ),
    optax.LookaheadState: Remedy(
        "lookahead", _OWN_ITERATES, "lookahead(modulate(optimizer, ...), ...)"
    ),
    contrib.SAMState: Remedy(
        "sam",
        _OWN_ITERATES,
        "modulate(optimizer, ...), with gradients of agvm_jax.sam_value_and_grad",
    ),
    contrib.DoGState: Remedy(
        "dog",
        "takes its rate from the distance that the parameters have moved",
        "chain(agvm(..., scale_gradients=True), dog(...))",
    ),
    contrib.DoWGState: Remedy(
        "dowg",
        "takes its rate from the distance that the parameters have moved",
        "chain(agvm(..., scale_gradients=True), dowg(...))",
    ),
    contrib.COCOBState: Remedy(
        "cocob",
        "computes the parameters anew from the first ones and has no rate to scale",
        "modulate(...) around another optimizer",
    ),
    contrib.MadgradState: Remedy(
        "madgrad",
        "computes the parameters anew from the first ones",
        "modulate(...) around another optimizer",
    ),
}

# What takes a finished update, and must have the last word on it.
_SEARCH = "chooses how far the parameters go, and keeps the gradient found there"
LAST_WORD = {
    optax.ScaleByBacktrackingLinesearchState: Remedy(
        "scale_by_backtracking_linesearch",
        _SEARCH,
        "chain(agvm(...), direction, scale_by_backtracking_linesearch(...))",
    ),
    optax.ScaleByZoomLinesearchState: Remedy(
        "scale_by_zoom_linesearch",
        _SEARCH,
        "chain(agvm(...), direction, scale_by_zoom_linesearch(...)), for lbfgs with "
        "scale_by_lbfgs() and scale(-1.0) as the direction",
    ),
}
NONNEGATIVE = Remedy(
    "keep_params_nonnegative",
    "holds the parameters at zero, which a scale behind it would let them pass",
    "chain(agvm(...), optimizer, keep_params_nonnegative()), or "
    "optax.chain(modulate(optimizer, ...), ...)",
)

# What only looks at finished updates, or adds them up.
_ONLOOKERS = (optax.ApplyEvery, optax.MonitorState, optax.SnapshotState)


def first_follower(
    transforms: Sequence[optax.GradientTransformation], states: Sequence[PyTree]
) -> int:
    """Return where those at the end begin that want the update as it is applied.

    These are projections, line searches, ``snapshot``, ``monitor`` and ``apply_every``.
    """
    place = len(transforms)
    while place and _is_follower(transforms[place - 1], states[place - 1]):
        place -= 1
    return place


def check_scaled(
    transforms: Sequence[optax.GradientTransformation],
    states: Sequence[PyTree],
    place: int | None,
    scales_gradients: bool,
) -> None:
    """Raise if AGVM would scale what must not be scaled.

    Args:
      transforms: those of the chain.
      states: what their init gave; that of AGVM itself is not looked at.
      place: where agvm stands, or None.
      scales_gradients: AGVM scales where it stands, and not what comes out last.

    Raises:
      ValueError: says which transform, and the right nesting.
    """
    if place is None:
        return
    followers = first_follower(transforms, states)
    for i, (tx, state) in enumerate(zip(transforms, states, strict=True)):
        if i == place or (i > place and scales_gradients):
            continue
        remedy = _keeper_in(state) or (i < followers and _last_word_in(tx, state))
        if remedy:
            raise ValueError(
                f"AGVM cannot scale what comes out of {remedy.name} (transform {i}): "
                f"it {remedy.does}. Write {remedy.instead}"
            )


def check_nothing_hidden(
    states: Sequence[PyTree], kind: type, place: int | None, last: int
) -> None:
    """Raise if a transform hides an agvm where chain cannot move its scale.

    Anywhere but last, what follows could divide the scale out. Beside an agvm of the
    chain itself a second one would square it.

    Args:
      states: what the transforms' init gave.
      kind: the type of AGVM's state.
      place: where agvm stands, or None.
      last: the last transform whose updates are still to be scaled.
    """
    for i, state in enumerate(states):
        if (place is None and i >= last) or not holds(state, kind):
            continue
        if place is not None:
            raise ValueError(
                f"chain() has an agvm at place {place} and another one inside "
                f"transform {i}: updates would be scaled twice. Keep one of them"
            )
        raise ValueError(
            f"chain() cannot reach the agvm inside transform {i}, and what follows it "
            "could divide its scale out: put agvm itself into the chain and the "
            "wrapper around the whole, wrapper(chain(agvm(...), ...))"
        )


def check_averaged(states: Sequence[PyTree], place: int | None, axis_name: Any) -> None:
    """Raise if a transform would see each replica's own gradients and should not.

    Raises:
      ValueError: one before agvm keeps arrays, such as moments, so that replicas would
        drift apart; or per-example gradients would be averaged.
    """
    if place is None or axis_name is None:
        return
    for i, state in enumerate(states):
        if i < place and any(_is_moment(leaf) for leaf in jax.tree.leaves(state)):
            raise ValueError(
                f"transform {i} of chain() keeps running values of the gradients, and "
                f"before agvm(axis_name={axis_name!r}) those are each replica's own: "
                "the replicas would drift apart. Put agvm first; or average first and "
                "pass phi="
            )
        if i > place and holds(state, contrib.DifferentiallyPrivateAggregateState):
            raise ValueError(
                "agvm(axis_name=...) would average gradients of different examples "
                "before they are clipped. Write chain("
                "differentially_private_aggregate(...), agvm(axis_name=...), "
                "optax.sgd(learning_rate))"
            )


def warn_of_scaled_gradients() -> None:
    """Warn, where a program is traced, that a scale stands in front of something."""
    warnings.warn(
        "agvm scales gradients here, and Adam, LAMB, LARS and every optimizer that "
        "divides by the gradient's size cancel that: write agvm_jax.chain(agvm(...), "
        "optimizer) or modulate(optimizer, ...) instead of optax.chain. If what "
        "follows is linear in the gradient (SGD), or agvm comes last, say "
        "agvm(scale_gradients=True)",
        stacklevel=3,
    )


def _is_follower(tx: optax.GradientTransformation, state: PyTree) -> bool:
    return isinstance(state, (*LAST_WORD, *_ONLOOKERS)) or (
        _code(tx.update) is _nonnegative_code()
    )


def _keeper_in(state: PyTree) -> Remedy | None:
    return next((r for kind, r in KEEPERS.items() if holds(state, kind)), None)


def _last_word_in(tx: optax.GradientTransformation, state: PyTree) -> Remedy | None:
    if any(_code(fn) is _nonnegative_code() for fn in _functions(tx.update)):
        return NONNEGATIVE
    return next((r for kind, r in LAST_WORD.items() if holds(state, kind)), None)


def holds(state: PyTree, kind: type) -> bool:
    """Whether a state of this type is in here, however deep."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kind))
    return any(isinstance(node, kind) for node in nodes)


def _is_moment(leaf: Any) -> bool:
    return jnp.ndim(leaf) > 0 and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


@functools.cache
def _nonnegative_code() -> Any:
    return _code(optax.keep_params_nonnegative().update)


def _code(fn: Any) -> Any:
    return getattr(fn, "__code__", None)


def _functions(root: Any) -> Iterator[Any]:
    """Yield a function and those that it has closed over, as wrappers do."""
    seen, stack = set(), [root]
    while stack:
        thing = stack.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, tuple | list):
            stack.extend(thing)
        elif isinstance(thing, dict):
            stack.extend(thing.values())
        elif isinstance(thing, functools.partial):
            stack.extend((thing.func, thing.args, thing.keywords))
        elif inspect.ismethod(thing):
            stack.append(thing.__func__)
            stack.extend(getattr(thing.__self__, "__dict__", {}).values())
        elif inspect.isfunction(thing):
            yield thing
            stack.extend(_contents(thing))


def _contents(fn: Any) -> Iterator[Any]:
    for cell in fn.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that was never bound
            continue
