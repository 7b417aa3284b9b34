"""Names the module that each parameter belongs to: the paper's backbone, FPN, heads."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax

from agvm_jax.optim.floats import is_inexact

PyTree = Any
# How leaves get their label: top-level key, ordered patterns, or a function.
Modules = Mapping[str, str | None] | Callable[[tuple, Any], str | None] | None

# The label of a leaf that AGVM neither measures nor scales.
FROZEN = "__frozen__"


def label_tree(params: PyTree, modules: Modules = None) -> PyTree:
    """Label every leaf of ``params`` with the module it belongs to.

    Args:
      params: any pytree: dicts, ``flax.nnx.State``, registered dataclasses, named
        tuples, Equinox modules. Only paths, shapes and dtypes are looked at.
      modules: how labels are found.

        * ``None``: the top-level key of a leaf is its module.
        * a mapping ``{pattern: label}``: the first pattern that ``re.search`` finds in
          the leaf's path wins. A path is its keys joined by slashes, ``"fpn/p3/bias"``;
          write ``"^fpn/"`` to match its beginning only.
        * a function ``(path, leaf) -> label``, the path a tuple of strings.

        A label of ``None`` leaves the leaf out: it is not measured and never scaled.

    Returns:
      A pytree shaped like ``params`` whose leaves are strings. Leaves that were left
      out, and those that are not floating point (counters, keys), are ``FROZEN``.

    Raises:
      ValueError: a leaf that no pattern catches, or a label that is not a string.

    >>> params = {"backbone": {"w": 1.0}, "box_head": {"w": 1.0}}
    >>> label_tree(params)["box_head"]
    {'w': 'box_head'}
    >>> label_tree(params, {"^backbone/": "backbone", "_head/": "head"})["box_head"]
    {'w': 'head'}
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    labels = [_label(_names(path), leaf, modules) for path, leaf in leaves]
    return jax.tree_util.tree_unflatten(treedef, labels)


def module_names(labels: PyTree) -> tuple[str, ...]:
    """Return the modules that occur in ``labels``, sorted.

    >>> module_names({"fpn": "fpn", "backbone": {"w": "backbone", "mean": FROZEN}})
    ('backbone', 'fpn')
    """
    return tuple(sorted(set(jax.tree.leaves(labels)) - {FROZEN}))


def leaf_labels(labels: PyTree, tree: PyTree) -> list[str]:
    """Return the labels in the order of ``tree``'s leaves.

    Raises:
      ValueError: labels and tree have a different number of leaves.
    """
    flat = jax.tree.leaves(labels)
    if len(flat) != len(jax.tree.leaves(tree)):
        raise ValueError(
            f"the labels have {len(flat)} leaves but the gradients have "
            f"{len(jax.tree.leaves(tree))}: make the labels from the same tree with "
            "label_tree(params)"
        )
    return flat


def leaf_paths(tree: PyTree) -> list[str]:
    """Return the path of each leaf, its keys joined by slashes."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return ["/".join(_names(path)) for path, _ in leaves]


def check_same_tree(updates: PyTree, params: PyTree) -> None:
    """Raise a ValueError where updates are not shaped like the parameters."""
    theirs, ours = leaf_paths(params), leaf_paths(updates)
    if theirs != ours:
        odd = sorted(set(theirs) ^ set(ours)) or ours
        raise ValueError(
            f"params and updates differ in structure, first at {odd[0]!r}: pass the "
            "parameters that the gradients were taken of"
        )


def _label(path: tuple[str, ...], leaf: Any, modules: Modules) -> str:
    if not is_inexact(leaf):
        return FROZEN
    where = "/".join(path)
    if modules is None:
        label = path[0] if path else "params"  # a bare array is a module by itself
    elif isinstance(modules, Mapping):
        label = _first_match(where, modules)
    else:
        label = modules(path, leaf)
    if label is None:
        return FROZEN
    if not isinstance(label, str):
        raise ValueError(
            f"modules gave {label!r} as the label of parameter {where!r}; a label is a "
            "string, or None to leave the parameter out"
        )
    return label


def _first_match(where: str, patterns: Mapping[str, str | None]) -> str | None:
    for pattern, label in patterns.items():
        if re.search(pattern, where):
            return label
    raise ValueError(
        f"no pattern in modules catches the parameter {where!r}; patterns: "
        f"{list(patterns)}. Add one for it, or '.*' as the last, with the label None "
        "to leave the parameter out"
    )


def _names(path: tuple) -> tuple[str, ...]:
    return tuple(_name(key) for key in path)


def _name(key: Any) -> str:
    """Return a path key as a bare word: ``DictKey('fpn')``, ``.fpn``, ``[0]``."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
