"""Pure functions of a detector: the one place where Flax modules are taken apart.

Above this file a detector is three functions over plain nested dicts. Keys are strings
throughout (an element of a list is "0", "1", ...), so a checkpoint reads back as what
was saved; the top keys are the modules that AGVM measures: backbone, fpn, head, ...
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from agvm_jax.structures import Batch, Predictions

from .ops.forms import current_forms, use_forms
from .stack import gather_inside

Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Detector:
    """A detector as pure functions, all of them fit for jit, grad, vmap and shard_map.

    Attributes:
      init: key -> (params, model_state). Compiled; under `jax.eval_shape` it gives the
        shapes alone.
      loss: (params, model_state, batch, key) -> (loss, (model_state, parts)), loss a
        float32 scalar, `parts` a dict of scalars that add up to it, `model_state` with
        the running averages moved on. With `gather=` the parameters of stacks are this
        device's parts, made whole block by block: `stack.gather_inside`.
      predict: (params, model_state, batch) -> Predictions.
      bind: (params, model_state) -> the module holding these values, to look inside.
      outputs: what `predict` gives, of "boxes", "masks" and "semantic".
    """

    init: Callable[[jax.Array], tuple[Tree, Tree]]
    loss: Callable[..., tuple[jax.Array, tuple[Tree, Tree]]]
    predict: Callable[[Tree, Tree, Batch], Predictions]
    bind: Callable[[Tree, Tree], nnx.Module]
    outputs: frozenset[str]


def make_detector(
    construct: Callable[[nnx.Rngs], nnx.Module],
    forms: str | None = None,
    forward_mode: bool = False,
) -> Detector:
    """Turn a module's constructor into a `Detector`.

    The module has the methods `loss(batch, key) -> (scalar, dict)` and
    `predict(batch) -> Predictions`, and `outputs`, as `Detector` has it; its parameters
    are `nnx.Param`, its running averages and constants `nnx.BatchStat`, and it holds no
    other state.

    Args:
      construct: builds the module from its random keys.
      forms: "cpu", "gpu" or "tpu", which forms of ops `init`, `loss` and `predict` are
        traced in, see `ops.forms`; None leaves it to whoever traces them. The methods
        of a module that `bind` gives are left to their caller in any case.
      forward_mode: `loss` is to be differentiated in forward mode (`jax.jvp`) too. The
        forms for CPUs cannot be, so those of GPUs stand in for them.

    Raises:
      ValueError: no such forms.
    """

    use_forms(forms)  # says so if there are none of that name

    def in_forms():
        name = forms or current_forms()
        return use_forms("gpu" if forward_mode and name == "cpu" else name)

    def split(key):
        return nnx.split(construct(nnx.Rngs(key)), nnx.Param, nnx.BatchStat)

    # Nothing is computed here: the shapes, and the module without its values.
    graphdef, *shapes = jax.eval_shape(split, jax.random.key(0))
    params_like, state_like = map(nnx.to_pure_dict, shapes)
    outputs = nnx.merge(graphdef, *shapes).outputs

    @jax.jit
    def init(key):
        with in_forms():
            _, params, model_state = split(key)
        return _plain(params), _plain(model_state)

    def bind(params, model_state):
        params = _restore_keys(params, params_like, "params")
        model_state = _restore_keys(model_state, state_like, "model_state")
        # Copied, because inside a transform the values belong to another trace.
        return nnx.merge(graphdef, params, model_state, copy=True)

    def loss(params, model_state, batch, key, gather=None):
        module = bind(params, model_state)
        if gather is not None:
            gather_inside(module, gather)
        with in_forms():
            value, parts = module.loss(batch, key)
        return value, (_plain(nnx.state(module, nnx.BatchStat)), parts)

    def predict(params, model_state, batch):
        module = bind(params, model_state)
        with in_forms():
            return module.predict(batch)

    return Detector(init, loss, predict, bind, outputs)


def _plain(state: nnx.State) -> Tree:
    """Turn a Flax state into nested dicts of arrays with string keys."""

    def rename(tree):
        if not isinstance(tree, Mapping):
            return tree
        return {str(key): rename(value) for key, value in tree.items()}

    return rename(nnx.to_pure_dict(state))


def _restore_keys(tree: Tree, like: Mapping, name: str) -> dict:
    """Give `tree` the keys of `like`, whose lists are keyed by integers.

    Raises:
      ValueError: the two do not have the same entries; the message says where.
    """
    if not isinstance(tree, Mapping):
        raise ValueError(f"{name} is an array; this detector has {list(like)} there")
    names = {str(key): key for key in like}
    if tree.keys() != names.keys():
        missing, extra = sorted(names.keys() - tree), sorted(tree.keys() - names)
        raise ValueError(
            f"{name} does not belong to this detector: missing {missing}, "
            f"unexpected {extra}"
        )
    return {
        key: _restore_keys(tree[string], like[key], f"{name}/{string}")
        if isinstance(like[key], Mapping)
        else tree[string]
        for string, key in names.items()
    }
