"""Optimizers that look at whole arrays, over arrays that hold many layers each.

A network of equal blocks may keep their weights in one array with a layer axis in
front. To Adam and SGD that is nothing new: they act on elements. Those that act on the
whole of an array are mistaken about it:

* LARS and LAMB scale each array by ||w|| / ||g||. Over a stack one layer's gradient
  decides the step of the others.
* "Biases and norms do not decay" is told from arrays of one dimension; stacked, they
  have two.
* Muon orthogonalises matrices, and takes stacked biases for one.

`over_layers` runs any Optax optimizer on every layer by itself, with `jax.vmap` over
the layer axis, so it does what it would to the same network without stacks.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

PyTree = Any
# params -> the same tree with True for each leaf whose first axis counts layers.
Layered = Callable[[PyTree], PyTree]


class LayersState(NamedTuple):
    """State of `over_layers`."""

    whole: optax.OptState  # of the leaves without a layer axis
    stacks: dict[
        str, optax.OptState
    ]  # number of layers -> state, a layer axis in front


def over_layers(
    tx: optax.GradientTransformation, layered: Layered
) -> optax.GradientTransformationExtraArgs:
    """Run `tx` on every layer of stacked leaves by itself.

    Stacks of the same number of layers are gone through together. Leaves without a
    layer axis are one call as they always were, and where there are only such, the
    state is that of `tx` itself.

    What `tx` computes over all parameters, a global norm say, it would compute of each
    layer: such parts belong outside.

    Args:
      tx: any optimizer; its masks are asked about single layers.
      layered: which leaves have a layer axis, from a tree like the parameters.

    Raises:
      ValueError: a leaf that is said to have a layer axis has no axis at all.

    >>> ratio = over_layers(optax.scale_by_trust_ratio(), lambda params: {"w": True})
    >>> grads, params = {"w": jnp.array([[1.0], [10.0]])}, {"w": jnp.ones((2, 1))}
    >>> updates, _ = ratio.update(grads, ratio.init(params), params)
    >>> updates["w"].ravel().tolist()  # each layer's by itself
    [1.0, 1.0]
    """
    tx = optax.with_extra_args_support(tx)

    def init(params):
        depths = _depths(params, layered)
        if not any(jax.tree.leaves(depths)):
            return tx.init(params)
        stacks = {
            str(depth): jax.vmap(tx.init)(_only(params, depths, depth))
            for depth in _distinct(depths)
        }
        return LayersState(tx.init(_only(params, depths, 0)), stacks)

    def update(updates, state, params=None, **extra):
        depths = _depths(updates, layered)
        if not any(jax.tree.leaves(depths)):
            return tx.update(updates, state, params, **extra)

        def run(depth, state):
            own = _only(updates, depths, depth)
            if params is None:
                return jax.vmap(lambda u, s: tx.update(u, s, **extra))(own, state)
            values = _only(params, depths, depth)
            return jax.vmap(lambda u, s, p: tx.update(u, s, p, **extra))(
                own, state, values
            )

        whole = None if params is None else _only(params, depths, 0)
        total, state_of_whole = tx.update(
            _only(updates, depths, 0), state.whole, whole, **extra
        )
        results, states = [total], {}
        for depth in _distinct(depths):
            result, states[str(depth)] = run(depth, state.stacks[str(depth)])
            results.append(result)
        return _merge(results), LayersState(state_of_whole, states)

    return optax.GradientTransformationExtraArgs(init, update)


def without_layer_axis(params: PyTree, layered: Layered) -> PyTree:
    """Return the shapes of `params`, those of one layer where there is a layer axis.

    For a mask that is asked about the parameters of a network:
    ``mask(without_layer_axis(params, layered))``.
    """

    def shape(leaf, depth):
        leaf_shape = jnp.shape(leaf)[1:] if depth else jnp.shape(leaf)
        return jax.ShapeDtypeStruct(leaf_shape, jnp.result_type(leaf))

    return jax.tree.map(shape, params, _depths(params, layered))


def _depths(tree: PyTree, layered: Layered) -> PyTree:
    """Return the number of layers of each leaf, 0 without a layer axis."""

    def depth(leaf, has_axis):
        if not has_axis:
            return 0
        if jnp.ndim(leaf) == 0:
            raise ValueError(
                "a parameter without any axis is said to have a layer axis: mend "
                "`layered`, which says of each leaf whether it has one"
            )
        return jnp.shape(leaf)[0]

    return jax.tree.map(depth, tree, layered(tree))


def _distinct(depths: PyTree) -> list[int]:
    return sorted(set(jax.tree.leaves(depths)) - {0})


def _only(tree: PyTree, depths: PyTree, depth: int) -> PyTree:
    """Return the tree with the leaves of other depths masked, as Optax masks them."""
    return jax.tree.map(
        lambda leaf, own: leaf if own == depth else optax.MaskedNode(), tree, depths
    )


def _merge(trees: list[PyTree]) -> PyTree:
    """Put together trees of which each leaf is masked in all but one."""

    def pick(*leaves):
        return next(x for x in leaves if not isinstance(x, optax.MaskedNode))

    return jax.tree.map(
        pick, *trees, is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode)
    )
