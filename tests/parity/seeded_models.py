"""Detectors of torchvision with seeded weights, for the scripts that write oracles."""

from collections.abc import Callable

import numpy as np
import torch

# On torchvision's scale of 0 to 1.
PIXELS = {
    "image_mean": [123.675 / 255, 116.28 / 255, 103.53 / 255],
    "image_std": [58.395 / 255, 57.12 / 255, 57.375 / 255],
}


def build_seeded(
    build: Callable[..., torch.nn.Module],
    make_tensor: Callable[[str, tuple[int, ...]], np.ndarray],
    **settings,
) -> torch.nn.Module:
    """Build a detector whose BatchNorm is frozen, as torchvision trains it.

    Args:
      build: torchvision's builder.
      make_tensor: name and shape of a weight -> its value.
      **settings: of the builder.
    """
    model = build(
        weights=None,
        weights_backbone=None,
        trainable_backbone_layers=5,
        **PIXELS,
        **settings,
    )
    model.load_state_dict(
        {
            name: tensor
            if name.endswith("num_batches_tracked")
            else torch.from_numpy(make_tensor(name, tuple(tensor.shape)))
            for name, tensor in model.state_dict().items()
        }
    )
    # The images have their size already.
    model.transform.resize = lambda image, target: (image, target)
    return model
