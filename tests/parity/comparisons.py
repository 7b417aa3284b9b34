"""How the parity tests compare what was computed with what the oracle holds."""

import jax
import numpy as np

from models.pretrained import our_path


def assert_close(found, expected, tolerance):
    """No element differs by more than `tolerance` times the expected spread."""
    assert found.shape == expected.shape
    worst = np.abs(found - expected).max() / expected.std()
    assert worst < tolerance, f"{worst:.2e} of the spread"


def by_path(tree):
    """The leaves of nested dicts, {"backbone/conv1/kernel": leaf, ...}."""
    return {
        "/".join(key.key for key in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def expected_norms(oracle, shapes, rules):
    """The oracle's gradient norms by our paths; `shapes` are by torchvision's names."""
    names = oracle["gradient_names"].tolist()
    return {
        our_path(name, len(shapes[name]), rules): norm
        for name, norm in zip(names, oracle["gradient_norms"], strict=True)
    }


def assert_norms_agree(found, expected, median):
    """Gradients are as long as expected: nearly all within `median` of it, all in 1e-3.

    A ReLU whose input is within rounding of zero falls on either side and moves the
    gradient of its own layer by some 1e-4 (torchvision's float32 against its float64
    too); nearly all layers have none.
    """
    assert found.keys() == expected.keys()
    errors = {path: abs(found[path] / norm - 1) for path, norm in expected.items()}
    assert max(errors.values()) < 1e-3, max(errors, key=errors.get)
    assert np.median(list(errors.values())) < median
