"""A model as one portable program: StableHLO, as `jax.export` serialises it.

The weights are in it. Whoever has jax can run it, without this code or Flax:
``jax.export.deserialize(bytearray(data)).call(image, image_size)``.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from agvm_jax.inference.images import bare_batch
from agvm_jax.structures import Batch, Predictions

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
FIXED = (1, 8)  # batches, where a free one is not possible


@dataclasses.dataclass(frozen=True)
class Program:
    """A serialised program.

    Attributes:
      batch: images that it takes; None: any number.
      data: what `jax.export.deserialize` reads.
    """

    batch: int | None
    data: bytes


def prediction(
    predict: Callable[[Any, Any, Batch], Predictions], params: Any, model_state: Any
) -> Callable[[jax.Array, jax.Array], dict[str, jax.Array]]:
    """Returns a detector's prediction as a function of images and their sizes alone.

    Args:
      predict: of the detector.
      params, model_state: its weights, which become constants of it.

    Returns:
      ``(image, image_size) -> dict``: (B, H, W, 3) uint8 and (B, 2) int32 to those
      fields of `Predictions` that the detector gives.
    """

    def run(image, image_size):
        ids = jnp.zeros(image.shape[:1], jnp.int32)
        found = predict(params, model_state, bare_batch(image, image_size, ids, jnp))
        fields = dataclasses.fields(found)
        named = {field.name: getattr(found, field.name) for field in fields}
        return {name: value for name, value in named.items() if value is not None}

    return run


def export_programs(
    run: Callable[[jax.Array, jax.Array], dict[str, jax.Array]],
    frame: tuple[int, int],
    platforms: Sequence[str],
) -> tuple[list[Program], str]:
    """Exports a program for a free batch, or, where that is impossible, for some.

    Args:
      run: from `prediction`; traced here, in forms that fit all the platforms.
      frame: height and width of the padded input.
      platforms: of `PLATFORMS`.

    Returns:
      One program, and ""; or one a batch of `FIXED`, and why.
    """

    def program(batch):
        kinds = (
            jax.ShapeDtypeStruct((batch, *frame, 3), jnp.uint8),
            jax.ShapeDtypeStruct((batch, 2), jnp.int32),
        )
        exported = export.export(jax.jit(run), platforms=list(platforms))(*kinds)
        return bytes(exported.serialize())

    try:
        (free,) = export.symbolic_shape("batch")
        return [Program(None, program(free))], ""
    except Exception as error:
        # A comparison that has no answer (its class is not public), or a free dimension
        # where Python needs a number.
        inconclusive = type(error).__name__ == "InconclusiveDimensionOperation"
        if not inconclusive and "_DimExpr" not in str(error):
            raise
        why = str(error).splitlines()[0]
    return [Program(batch, program(batch)) for batch in FIXED], why
