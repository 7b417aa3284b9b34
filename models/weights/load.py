"""What a run starts from: weights of a file in the place of random ones.

The file holds a classification model, of which the backbone is taken, a whole detector
of torchvision's, or the weights of a run of ours.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ..stack import stack_again, unstack
from .coco import IDS, select_coco_classes
from .file_settings import differences
from .files import find_weights, read_weights
from .placing import (
    NOTHING,
    Tree,
    as_tree,
    fill,
    flatten,
    leaf_shapes,
    our_shapes,
    place,
)
from .rules import MASK_RCNN_RULES, RETINANET_RULES, Rules, rules_for
from .uninet_rules import is_uninet, released_size, uninet_rules

# Choice -> pattern of our paths that stay as they were initialised.
KEPT = {
    "all": NOTHING,
    # The layers whose size is the number of classes; the rest of a head is taken.
    "all_but_heads": r"head/class_logits/.*|box_head/(class_logits|box_deltas)/.*"
    r"|mask_head/logits/.*",
    "backbone": r"(?!backbone/).*",
}

# torchvision evaluates these with BatchNorm's epsilon at zero, as they were trained.
_WITHOUT_EPSILON = (
    "retinanet_resnet50_fpn_coco-eeacb38b.pth",
    "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
    "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
)
_EPSILON = 1e-5  # ours


@dataclasses.dataclass(frozen=True)
class InitialWeights:
    """Weights for some or all of a detector.

    Attributes:
      placed: our path -> array.
      report: what was taken and what was not, for people.
    """

    placed: Mapping[str, np.ndarray]
    report: str

    def put_into(self, params: Tree, model_state: Tree) -> tuple[Tree, Tree]:
        """Return the two trees of `Detector.init` with these weights in them."""
        trees = fill(params, self.placed), fill(model_state, self.placed)
        return jax.tree.map(jnp.array, trees)  # copies: a step gives its buffers away


def load_initial_weights(
    source: str, what: str, folder: str | Path, params: Tree, model_state: Tree
) -> InitialWeights:
    """Read the weights that a run starts from.

    Args:
      source: a file, or a name that `find_weights` knows.
      what: "all", "backbone", or "all_but_heads": all but the layers whose size is the
        number of classes.
      folder: where fetched files are kept.
      params: what `Detector.init` returns, or its shapes.
      model_state: the same.

    Raises:
      ValueError: there is no such file or choice, the file is damaged, or its tensors
        do not fit the model; then all differences are listed.
    """
    if what not in KEPT:
        raise ValueError(
            f"train.init_what={what!r} is not known; choose one of {sorted(KEPT)}"
        )
    path = find_weights(source, folder)
    tensors = read_weights(path)
    shapes = leaf_shapes(params, model_state)
    # Nobody else has the blocks of a stack in one array.
    apart = leaf_shapes(*(jax.eval_shape(unstack, t) for t in (params, model_state)))
    rules, kept = _rules_for(tensors, apart, what, path)
    wanted = shapes if rules is None else apart
    chosen = ""
    if what == "all" and _number_of_classes(wanted) == len(IDS):
        selected = select_coco_classes(tensors)
        if any(np.shape(selected[name]) != np.shape(tensors[name]) for name in tensors):
            tensors, chosen = selected, "; the 80 classes of COCO out of 91 ids"
    try:
        placed, unused = place(tensors, wanted, rules, kept)
    except ValueError as error:
        remedy = _remedy(what, our_shapes(tensors, rules), wanted)
        if is_uninet(tensors):
            size = released_size({name: np.shape(t) for name, t in tensors.items()})
            remedy = f"\nThe file is of --config.model.backbone=uninet_{size}" * bool(
                size
            )
        raise ValueError(f"{path}: {error}{remedy}") from error
    if path.name in _WITHOUT_EPSILON:
        placed = _make_up_for_epsilon(placed)
    if apart.keys() != shapes.keys() and wanted is apart:
        placed = flatten(stack_again(as_tree(placed)))
    report = f"{path.name}: {len(placed)} of {len(shapes)} arrays{chosen}"
    if rest := shapes.keys() - placed.keys():
        report += f"\nas initialised: {_name_modules(rest, placed, '/')}"
    if unused:
        used = tensors.keys() - set(unused)
        separator = "/" if rules is None else "."
        report += f"\nnot used: {_name_modules(unused, used, separator)}"
    return InitialWeights(placed, report)


def _rules_for(
    tensors: Mapping[str, np.ndarray], wanted: Iterable[str], what: str, path: Path
) -> tuple[Rules | None, str]:
    """Return the rules for the kind of file and the pattern of what stays.

    Args:
      tensors: of the file.
      wanted: paths of what the model has, block by block.
      what, path: as in `load_initial_weights`.
    """
    if any(name.startswith("backbone/") for name in tensors):
        return None, KEPT[what]
    if any(name.startswith("backbone.") for name in tensors):
        return (*MASK_RCNN_RULES, *RETINANET_RULES), KEPT[what]
    rules = uninet_rules(wanted) if is_uninet(tensors) else rules_for(tensors)
    if rules is None:
        raise ValueError(
            f"{path} has no tensor of a name that torchvision gives to a ResNet, a "
            "Swin or a detector, is no UniNet and no run's weights; it has "
            f"{_shorten(sorted(tensors))}"
        )
    if what != "backbone":
        raise ValueError(
            f"{path} holds a backbone and no detector: use "
            "--config.train.init_what=backbone"
        )
    # A Swin for classification has no norms on the outputs of its stages.
    return rules, rf"{KEPT[what]}|backbone/norm\d/.*"


def _number_of_classes(wanted: Mapping[str, tuple[int, ...]]) -> int | None:
    if "box_head/class_logits/bias" in wanted:
        return wanted["box_head/class_logits/bias"][0] - 1
    if "head/class_logits/bias" in wanted:
        anchors = wanted["head/box_deltas/bias"][0] // 4
        return wanted["head/class_logits/bias"][0] // anchors
    return None


def _remedy(
    what: str,
    of_file: Mapping[str, tuple[int, ...]],
    of_model: Mapping[str, tuple[int, ...]],
) -> str:
    """Return what to set so that the file fits, where its shapes tell."""
    if what == "backbone":
        of_file, of_model = (
            {p: shape for p, shape in shapes.items() if p.startswith("backbone/")}
            for shapes in (of_file, of_model)
        )
    if flags := differences(of_file, of_model):
        return f"\nThe file was made with other settings: use {' '.join(flags)}"
    if what != "all":
        return ""
    return (
        "\nIf only the number of classes is another one, use "
        "--config.train.init_what=all_but_heads"
    )


def _make_up_for_epsilon(placed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return weights that give with our epsilon what they gave with none."""
    changed = dict(placed)
    for path, var in placed.items():
        if path.endswith("/var"):
            scale = path.removesuffix("var") + "scale"
            factor = np.sqrt(1 + _EPSILON / np.where(var > 0, var, np.inf))
            changed[scale] = (placed[scale] * factor).astype(np.float32)
    return changed


def _name_modules(paths: Iterable[str], others: Iterable[str], separator: str) -> str:
    """Name the modules of `paths`, as few as there are without any of `others`."""
    others = [other.split(separator) for other in others]
    names = set()
    for path in paths:
        parts = path.split(separator)
        depth = 1
        while depth < len(parts) - 1 and any(
            other[:depth] == parts[:depth] for other in others
        ):
            depth += 1
        names.add(separator.join(parts[:depth]))
    return _shorten(sorted(names))


def _shorten(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
