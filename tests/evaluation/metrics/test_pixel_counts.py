"""Labels of the padded input, brought to the pixels of the original image."""

import numpy as np

from agvm_jax.evaluation.metrics.pixel_counts import enlarge_labels


def test_labels_are_enlarged_to_the_original_image_without_the_padding():
    rng = np.random.default_rng(0)
    original = rng.integers(0, 3, (8, 12))
    # The input is 16 x 16 with the image in its top left 4 x 6; labels at stride 2.
    padded = np.full((8, 8), 2)
    padded[:2, :3] = original[2::4, 2::4]
    big = enlarge_labels(padded, (4, 6), (16, 16), (8, 12))
    np.testing.assert_array_equal(big, np.kron(original[2::4, 2::4], np.ones((4, 4))))
    # Centres of three pixels over two cells: 1/3, 1 and 5/3.
    three = enlarge_labels(np.array([[7, 9]]), (1, 2), (1, 2), (1, 3))
    np.testing.assert_array_equal(three, [[7, 9, 9]])
    same = enlarge_labels(original, (8, 12), (8, 12), (8, 12))
    np.testing.assert_array_equal(same, original)
