"""Equal blocks one after the other, compiled once: stacked weights and one scan.

A network of a hundred blocks is a hundred copies of the same instructions for the
compiler. Here the weights of equal blocks lie on a leading axis, the layer axis, and
one loop runs over it, so the program is as long as one block's. With `remat` a block's
activations are computed again in the backward pass and only its input is kept.

A leaf with a layer axis is something else to an optimizer that looks at whole arrays:
`has_layer_axis` says which leaves these are, `agvm_jax.optim.layer_axis` acts on it.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

# The names under which blocks lie, a key of their path in the parameters.
STACK = "stack"
SEQUENCE = "sequence"


class Stack(nnx.Module):
    """`count` equal blocks in a row; parameters and statistics have a layer axis.

    Args:
      make: `make(rngs) -> block`, a module called as `block(x, constants, train=...)`
        that gives what has the shape and dtype of x. Its variables are `nnx.Param` and
        `nnx.BatchStat`.
      count: of blocks.
      remat: keep a block's input alone for the backward pass.
      rngs: keys for the initial weights, one each a block.

    Raises:
      ValueError: no block at all.
    """

    def __init__(
        self,
        make: Callable[[nnx.Rngs], nnx.Module],
        count: int,
        *,
        remat: bool = True,
        rngs: nnx.Rngs,
    ):
        check_count(count)
        build = nnx.vmap(make, in_axes=0, out_axes=0)
        self.stack = nnx.split_rngs(splits=count)(build)(rngs)
        self.count = count
        self.remat = remat
        self.gather = None  # see `gather_inside`

    def __call__(self, x: jax.Array, constants: Any = None, *, train: bool) -> Any:
        """Run the blocks one after the other.

        Args:
          x: what the first block gets.
          constants: a pytree whose leaves have the layer axis in front, each block gets
            its own part: drop path's gains, keys. None: each gets None.
          train: given to every block; running averages that move are kept.

        Returns:
          What the last block gives.
        """
        graph, params, state = nnx.split(self.stack, nnx.Param, nnx.BatchStat)

        run = functools.partial(_run, graph, train, self.gather)
        if self.remat:
            # In a loop the two passes cannot be merged again by the compiler.
            run = jax.checkpoint(run, prevent_cse=False)
        x, moved = lax.scan(run, x, (params, state, constants), length=self.count)
        nnx.update(self.stack, moved)
        return x


class Sequence(nnx.Module):
    """The same blocks, each with weights of its own: what `Stack` has to be equal to.

    It compiles in proportion to its depth, and on a CPU runs a little faster.
    """

    def __init__(
        self,
        make: Callable[[nnx.Rngs], nnx.Module],
        count: int,
        *,
        remat: bool = True,
        rngs: nnx.Rngs,
    ):
        check_count(count)
        self.sequence = nnx.List([make(rngs) for _ in range(count)])
        self.count = count
        self.remat = remat

    def __call__(self, x: jax.Array, constants: Any = None, *, train: bool) -> Any:
        """Run the blocks one after the other; see `Stack`."""

        for index, block in enumerate(self.sequence):
            own = jax.tree.map(lambda leaf, index=index: leaf[index], constants)
            x = call(block, x, own, train=train, remat=self.remat)
        return x


def call(
    block: nnx.Module, x: jax.Array, constants: Any, *, train: bool, remat: bool
) -> Any:
    """Return `block(x, constants, train=train)`; `remat`: keep x alone of it.

    Its running averages move on as without.
    """
    if not remat:
        return block(x, constants, train=train)
    graph, params, state = nnx.split(block, nnx.Param, nnx.BatchStat)
    run = jax.checkpoint(functools.partial(_run, graph, train, None))
    x, moved = run(x, (params, state, constants))
    nnx.update(block, moved)
    return x


def gather_inside(
    module: nnx.Module, gather: Callable[[str, jax.Array], jax.Array]
) -> None:
    """Let every stack in a module make parameters whole as it comes to their block.

    With `remat` a block's are gathered again in the backward pass, so that a device
    holds one block's at a time; without, all of them are kept for it.

    Args:
      module: what holds the stacks.
      gather: (path of a parameter in the module, "backbone/stage1/stack/kernel"; the
        part of it that this device has of one block) -> that block's whole parameter.
    """

    def gather_block(prefix, params):
        return nnx.from_flat_state(
            [
                (path, leaf.replace(gather(_joined(prefix, path), leaf.get_value())))
                for path, leaf in nnx.to_flat_state(params)
            ]
        )

    for path, node in nnx.iter_graph(module):
        if isinstance(node, Stack):
            node.gather = functools.partial(gather_block, (*path, STACK))


def _joined(*paths: tuple) -> str:
    return "/".join(str(key) for path in paths for key in path)


def _run(
    graph: nnx.GraphDef, train: bool, gather: Callable | None, x: jax.Array, layer: Any
) -> Any:
    """Run a block that is made of `layer`; return its result and moved averages."""
    params, state, constants = layer
    if gather is not None:
        params = gather(params)
    # Variables of this trace: rematerialised code may not write to others.
    block = nnx.merge(graph, params, state, copy=True)
    y = block(x, constants, train=train)
    return y, _moved(state, nnx.state(block, nnx.BatchStat))


def _moved(before: nnx.State, after: nnx.State) -> nnx.State:
    """Return the variables that a block has written to.

    Constants, whole blocks of them where a backbone is frozen, are not copied.
    """
    old = dict(nnx.to_flat_state(before))
    return nnx.from_flat_state(
        [
            (path, variable)
            for path, variable in nnx.to_flat_state(after)
            if variable.get_value() is not old[path].get_value()
        ]
    )


def has_layer_axis(params: Any) -> Any:
    """Return True for every leaf whose first axis counts the blocks of a stack.

    Args:
      params: parameters, gradients or optimizer state as nested dicts.

    >>> has_layer_axis({"head": {"bias": 0}, "stage1": {"stack": {"bias": 0}}})
    {'head': {'bias': False}, 'stage1': {'stack': {'bias': True}}}
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(getattr(key, "key", None) == STACK for key in path), params
    )


def unstack(tree: Any) -> Any:
    """Return nested dicts with each stack taken apart: what a `Sequence` would hold.

    >>> unstack({"stack": {"bias": jnp.arange(2)}})["sequence"]["1"]
    {'bias': Array(1, dtype=int32)}
    """

    def take_apart(branch):
        count = len(jax.tree.leaves(branch)[0])
        return {
            str(index): jax.tree.map(lambda leaf, index=index: leaf[index], branch)
            for index in range(count)
        }

    return _replace(STACK, SEQUENCE, take_apart, tree)


def stack_again(tree: Any) -> Any:
    """Undo `unstack`.

    >>> layers = {"0": {"bias": jnp.int32(3)}, "1": {"bias": jnp.int32(4)}}
    >>> stack_again({"sequence": layers})
    {'stack': {'bias': Array([3, 4], dtype=int32)}}
    """

    def put_together(branch):
        layers = [branch[str(index)] for index in range(len(branch))]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)

    return _replace(SEQUENCE, STACK, put_together, tree)


def _replace(name: str, by: str, change: Callable, tree: Any) -> Any:
    """Put `change(branch)` under the key `by` for each branch under the key `name`."""
    if not isinstance(tree, dict):
        return tree
    replaced = {}
    for key, branch in tree.items():
        if key == name:
            replaced[by] = change(branch)
        else:
            replaced[key] = _replace(name, by, change, branch)
    return replaced


def check_count(count: int) -> None:
    """Raise a ValueError unless there is a block."""
    if count < 1:
        raise ValueError(f"a stack of {count} blocks: at least one is needed")
