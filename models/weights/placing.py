"""Tensors of a file under our names and in our layouts.

A table of rules says where each of torchvision's tensors belongs in our trees. Loading
is checked both ways: every tensor is used, every parameter and statistic is set, every
shape agrees; what does not is listed in one error.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from .rules import RETINANET_RULES, Rules

Tree = dict[str, Any]

NOTHING = r"(?!)"  # a pattern

# Counters that torch's BatchNorm keeps for a mode we do not have, and constants.
_UNUSED = re.compile(r".*\.(num_batches_tracked|relative_position_index|attn_mask)")


# What a tensor is called by torch and, if it differs, by us.
_LEAVES = {
    "weight": "scale",
    "running_mean": "mean",
    "running_var": "var",
    "relative_position_bias_table": "bias_table",
}

# Bins of a pooled box along each side, in every detector that torchvision publishes.
_ROI_SIZE = 7


def _channels_last(tensor: np.ndarray) -> np.ndarray:
    """Reorder a layer's inputs from (C, P, P) to (P, P, C), where they are that."""
    bins = _ROI_SIZE**2
    if tensor.ndim != 2 or tensor.shape[1] % bins:
        return tensor  # its shape will be complained about
    split = tensor.reshape(tensor.shape[0], -1, bins)
    return split.transpose(0, 2, 1).reshape(tensor.shape)


# What differs beyond the order of dimensions, by our path. Outputs stand first here.
# Our background is the last class, theirs the first; their box deltas of the
# background are never read, and we have none.
_LAYOUTS = {
    "box_head/fc6/kernel": _channels_last,
    "box_head/class_logits/kernel": lambda tensor: np.roll(tensor, -1, axis=0),
    "box_head/class_logits/bias": lambda tensor: np.roll(tensor, -1, axis=0),
    "box_head/box_deltas/kernel": lambda tensor: tensor[4:],
    "box_head/box_deltas/bias": lambda tensor: tensor[4:],
    # A transposed convolution of theirs has its inputs first; masks of the background
    # are never read.
    "mask_head/upsample/kernel": lambda tensor: np.swapaxes(tensor, 0, 1),
    "mask_head/logits/kernel": lambda tensor: tensor[1:],
    "mask_head/logits/bias": lambda tensor: tensor[1:],
}


def our_path(name: str, ndim: int, rules: Rules = RETINANET_RULES) -> str | None:
    """Return where a torchvision tensor of `ndim` dimensions belongs, or None.

    >>> our_path("backbone.body.layer2.0.downsample.1.running_var", 1)
    'backbone/layer2/0/shortcut/bn/var'
    >>> our_path("backbone.body.conv1.weight", 4)
    'backbone/conv1/kernel'
    """
    module, _, leaf = name.rpartition(".")
    is_kernel = leaf == "weight" and ndim in (2, 4)
    leaf = "kernel" if is_kernel else _LEAVES.get(leaf, leaf)
    for pattern, path in rules:
        found = re.fullmatch(pattern, module)
        if found:
            return f"{found.expand(path)}/{leaf}"
    return None


def from_torchvision(
    tensors: Mapping[str, Any],
    params: Tree,
    model_state: Tree,
    rules: Rules = RETINANET_RULES,
) -> tuple[Tree, Tree]:
    """Return trees like `params` and `model_state` filled from torchvision's tensors.

    Args:
      tensors: a state dict; the values are anything that `numpy.asarray` takes.
      params: the shapes wanted; arrays, or what `jax.eval_shape` of `init` returns.
      model_state: the same of the running statistics (with frozen BatchNorm its scales
        and biases are here too).
      rules: which module goes where.

    Returns:
      params and model_state, of NumPy float32 arrays.

    Raises:
      ValueError: see `place`.
    """
    placed, _ = place(tensors, leaf_shapes(params, model_state), rules)
    return fill(params, placed), fill(model_state, placed)


def place(
    tensors: Mapping[str, Any],
    wanted: Mapping[str, tuple[int, ...]],
    rules: Rules | None,
    kept: str = NOTHING,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return tensors under our paths and in our layouts.

    Args:
      tensors: a state dict; the values are anything that `numpy.asarray` takes.
      wanted: path -> shape of what the model has.
      rules: which of torchvision's modules goes where; None for tensors under our own
        paths.
      kept: a pattern of our paths. What matches is not set, and tensors that belong
        there are not used; it need not exist in the model.

    Returns:
      path -> float32 array, and the names of the tensors that were not used (constants
      and counters apart).

    Raises:
      ValueError: lists each tensor without a place, each place without a tensor and
        each pair whose shapes differ.
    """
    wanted = {p: shape for p, shape in wanted.items() if not re.fullmatch(kept, p)}
    placed, unused, problems = {}, [], []
    for name, tensor in tensors.items():
        if _UNUSED.fullmatch(name):
            continue
        array = np.asarray(tensor, np.float32)
        path = name if rules is None else our_path(name, array.ndim, rules)
        if path is not None and re.fullmatch(kept, path):
            unused.append(name)
            continue
        if rules is not None:
            array = _our_layout(name, path, array)
        if path not in wanted:
            problems.append(f"{name} {array.shape} has no place in the model")
        elif path in placed:
            problems.append(f"{name} is a second tensor for {path}")
        else:
            placed[path] = array
            if array.shape != wanted[path]:
                problems.append(
                    f"{name} is {array.shape} in our layout, {path} is {wanted[path]}"
                )
    problems += [
        f"nothing sets {path} {wanted[path]}" for path in wanted if path not in placed
    ]
    if problems:
        raise ValueError(
            f"the weights do not fit the model ({len(problems)} differences):\n  "
            + "\n  ".join(problems)
        )
    return placed, unused


def our_shapes(
    tensors: Mapping[str, Any], rules: Rules | None
) -> dict[str, tuple[int, ...]]:
    """Return path -> shape in our layout of those tensors that have a path."""
    if rules is None:
        return {path: np.shape(tensor) for path, tensor in tensors.items()}
    shapes = {}
    for name, tensor in tensors.items():
        path = our_path(name, np.ndim(tensor), rules)
        if path is not None:
            shapes[path] = _our_layout(name, path, np.asarray(tensor)).shape
    return shapes


def _our_layout(name: str, path: str | None, array: np.ndarray) -> np.ndarray:
    array = _LAYOUTS.get(path, np.asarray)(array)
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)  # OIHW to HWIO
    if array.ndim == 2 and name.endswith(".weight"):
        return array.T  # (out, in) to (in, out)
    return array


def flatten(*trees: Tree) -> dict[str, np.ndarray]:
    """Return path -> array of every leaf, what `place` takes without rules."""
    return {path: np.asarray(leaf) for path, leaf in _by_path(*trees)}


def as_tree(arrays: Mapping[str, Any]) -> Tree:
    """Return nested dicts of path -> array; `flatten` undoes it."""
    tree: Tree = {}
    for path, array in arrays.items():
        *branches, leaf = path.split("/")
        place = tree
        for branch in branches:
            place = place.setdefault(branch, {})
        place[leaf] = array
    return tree


def leaf_shapes(*trees: Tree) -> dict[str, tuple[int, ...]]:
    """Return path -> shape of every leaf, as in "backbone/conv1/kernel"."""
    return {path: leaf.shape for path, leaf in _by_path(*trees)}


def _by_path(*trees: Tree) -> list[tuple[str, Any]]:
    return [
        ("/".join(key.key for key in path), leaf)
        for tree in trees
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def fill(tree: Tree, placed: Mapping[str, np.ndarray]) -> Tree:
    """Return `tree` with the arrays of `placed` where there are any."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: placed.get("/".join(key.key for key in path), leaf), tree
    )
