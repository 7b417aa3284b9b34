"""Files of released UniNets in a detector's backbone, whose equal blocks are stacked.

tests/parity/make_uninet_file.py wrote the file, with torch and the released names;
tests/parity/test_uninet_blocks.py shows that weights placed so compute the same.
"""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from models.backbones.uninet import UniNet
from models.backbones.uninet_sizes import Architecture
from models.functional import make_detector
from models.stack import unstack
from models.weights.files import read_weights
from models.weights.load import load_initial_weights
from models.weights.placing import flatten, our_path
from models.weights.uninet_rules import released_size, uninet_rules

FILE = Path(__file__).parents[2] / "parity" / "uninet_classifier.pth"
# That of the file, `seeded_uninet.NETS["modules"]`.
NET = Architecture((1, 2, 1, 1, 2, 1), (4, 8, 8, 12, 16, 16), stem=6, head_channels=8)


class Model(nnx.Module):
    """As much of a detector as `make_detector` asks for."""

    outputs = frozenset()

    def __init__(self, rngs, net, parts):
        self.backbone = UniNet(net, norm="synced", rngs=rngs)
        self.backbone.freeze(parts)

    def loss(self, images, key):
        raise NotImplementedError

    def predict(self, images):
        raise NotImplementedError


@functools.cache
def shapes(net=NET, parts=0):
    detector = make_detector(functools.partial(Model, net=net, parts=parts))
    return jax.eval_shape(detector.init, jax.random.key(0))


@pytest.fixture(scope="module")
def tensors():
    return read_weights(FILE)


def load(tmp_path, *trees, source=FILE):
    return load_initial_weights(str(source), "backbone", tmp_path, *trees)


@pytest.mark.parametrize("parts", [0, 3])
def test_each_tensor_goes_to_its_block_of_the_stack(tensors, tmp_path, parts):
    weights = load(tmp_path, *shapes(parts=parts))
    count = len(flatten_shapes(parts))
    assert weights.report.splitlines() == [
        f"{FILE.name}: {count} of {count} arrays",
        "not used: classifier, head.0, head.1",
    ]
    trees = weights.put_into(*shapes(parts=parts))
    placed = flatten(*map(unstack, trees))
    rules = uninet_rules(placed)
    used = set()
    for name, tensor in tensors.items():
        if name.startswith(("head", "classifier")) or name.endswith("_tracked"):
            continue
        path = our_path(name, tensor.ndim, rules)
        used.add(path)
        if tensor.ndim == 4:
            tensor = tensor.transpose(2, 3, 1, 0)
        elif tensor.ndim == 2 and name.endswith("weight"):
            tensor = tensor.T
        np.testing.assert_array_equal(placed[path], tensor, err_msg=name)
    assert used == placed.keys()
    # The second of two equal blocks in a row, for one.
    stack = trees[0]["backbone"]["stage5"]["rest"]["stack"]
    np.testing.assert_array_equal(stack["gamma_1"][1], tensors["blocks.10.gamma_1"])


def flatten_shapes(parts):
    return [leaf for tree in shapes(parts=parts) for leaf in jax.tree.leaves(tree)]


def test_a_file_of_another_size_is_refused_with_what_does_not_fit(tmp_path):
    deeper = NET._replace(repeats=(1, 2, 1, 1, 3, 1))
    with pytest.raises(ValueError, match=r"stage5/rest/sequence/2") as error:
        load(tmp_path, *shapes(deeper))
    assert "nothing sets backbone/stage6" in str(error.value)


@pytest.mark.parametrize(("size", "blocks", "stem"), [("b2", 40, 32), ("1b", 70, 96)])
def test_the_sizes_that_are_released_are_known_by_their_blocks(size, blocks, stem):
    last = f"blocks.{blocks - 1}.norm1.weight"
    given = {"stem.0.weight": (stem, 3, 3, 3), last: (9,), "classifier.bias": (9,)}
    assert released_size(given) == size
    assert released_size(given | {f"blocks.{blocks}.norm1.weight": (9,)}) is None


def test_tensors_that_are_lacking_or_too_many_are_named(tensors, tmp_path):
    changed = dict(tensors)
    changed["blocks.3.b2.9.weight"] = changed.pop("blocks.3.b2.4.weight")
    np.savez(tmp_path / "changed.npz", **changed)
    with pytest.raises(ValueError, match="2 differences") as error:
        load(tmp_path, *shapes(), source=tmp_path / "changed.npz")
    assert "blocks.3.b2.9.weight" in str(error.value)
    assert "nothing sets backbone/stage2/rest/sequence/1/project" in str(error.value)
