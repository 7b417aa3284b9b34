"""The same function on the chip in its form and on the CPU in the CPU's form."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from models.ops.forms import forms_for, use_forms


def on_both(function: Callable, *operands: Any) -> tuple[Any, Any]:
    """Return what a function gives on the default device and on the CPU, as NumPy.

    The chip traces the forms of its own platform; where the only device is the CPU,
    those of a GPU, so that a dry run compares something. Products are taken in full
    float32 on both sides.
    """
    device = jax.devices()[0]
    own = "gpu" if device.platform == "cpu" else forms_for(device.platform)
    results = []
    for place, forms in ((device, own), (jax.devices("cpu")[0], "cpu")):
        with (
            use_forms(forms),
            jax.default_matmul_precision("highest"),
            jax.default_device(place),
        ):
            moved = jax.device_put(operands, place)
            results.append(jax.device_get(jax.jit(function)(*moved)))
    return tuple(results)


def distance(found: Any, wanted: Any) -> float:
    """Return the largest ||found - wanted|| / ||wanted|| of all leaves; nan stays nan.

    Integers count as equal or not: 0 or the share of entries that differ.
    """
    worst = 0.0
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        if np.issubdtype(b.dtype, np.floating):
            a, b = a.astype(np.float64), b.astype(np.float64)
            far = np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)
        else:
            far = float(np.mean(a != b))
        worst = max(worst, float(far)) if np.isfinite(far) else float("nan")
        if np.isnan(worst):
            return worst
    return worst
