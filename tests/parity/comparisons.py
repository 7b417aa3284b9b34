"""How the parity tests compare what was computed with what the oracle holds."""

import jax
import numpy as np

from models.weights.placing import our_path


def assert_close(found, expected, tolerance):
    """No element differs by more than `tolerance` times the expected spread."""
    assert found.shape == expected.shape
    worst = np.abs(found - expected).max() / expected.std()
    assert worst < tolerance, f"{worst:.2e} of the spread"


def norms_by_path(gradients):
    """Lengths of the leaves of nested dicts, {"backbone/conv1/kernel": length, ...}.

    By NumPy: a sum of a million squares one after the other would err by 1e-4, and that
    is what a program does that `COMPILER_OPTIONS` keep simple.
    """
    return {
        "/".join(key.key for key in path): np.linalg.norm(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
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
    middle = np.median(list(errors.values()))
    assert middle < median, f"{middle:.1e}"


def assert_same_detections(found, oracle, *, pixels, score):
    """The same ones in the same order, but that neighbours may have changed places.

    Args:
      found: `Predictions` of a batch.
      oracle: theirs, all images' in a row, and how many each image has.
      pixels: how far sides may be apart.
      score: how far scores may be apart, relative.
    """
    assert found.valid.sum(axis=1).tolist() == oracle["counts"].tolist()
    for image, end in enumerate(np.cumsum(oracle["counts"])):
        count = oracle["counts"][image]
        rows = slice(end - count, end)
        boxes, scores = oracle["boxes"][rows], oracle["scores"][rows]
        apart = np.abs(found.boxes[image, :count, None] - boxes).max(axis=-1)
        ratio = found.scores[image, :count, None] / scores
        same = (apart < pixels) & (np.abs(ratio - 1.0) < score)
        same &= found.classes[image, :count, None] == oracle["labels"][rows]
        assert (same.sum(axis=0) == 1).all() and (same.sum(axis=1) == 1).all()
        assert np.abs(same.argmax(axis=1) - np.arange(count)).max() <= 1
