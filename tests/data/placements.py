"""Placements sampled at random, for tests of what moves with an image."""

from agvm_jax.data.augment.augmentation import Augmentation, sample


def random_placement(rng, size, frame, flip, scale_range):
    """Scale, window and flip, nothing else."""
    rules = Augmentation(flip=flip, scale_range=scale_range)
    return sample(rng, size, frame, rules).placement
