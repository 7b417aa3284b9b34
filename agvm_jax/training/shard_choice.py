"""From `train.shard` and `train.fsdp_size` to a mesh, and what that means in words."""

import dataclasses
from typing import Any

from agvm_jax.training.recipes import Recipe

MODES = ("none", "optimizer", "full")


@dataclasses.dataclass(frozen=True)
class ShardChoice:
    """How a run's state is shared out.

    Attributes:
      mode: "none", "optimizer" or "full"; see `training.partition`.
      fsdp_size: devices along the axis ``fsdp``; None: there is no such axis.
      reason: a sentence; "" for a run that shards nothing and did not ask for it.
    """

    mode: str
    fsdp_size: int | None
    reason: str


def choose_sharding(
    settings: Any, recipe: Recipe, num_devices: int, host_devices: int
) -> ShardChoice:
    """Returns the mode and the mesh that a config asks for.

    Args:
      settings: any object with the attributes ``shard`` and ``fsdp_size`` of
        `config.train`.
      recipe: the optimizer, since what it looks at decides what a device holds.
      num_devices: over all processes.
      host_devices: of this process: by default parameters are shared among these.

    Raises:
      ValueError: an unknown mode; a size that does not divide the devices; or one that
        would share nothing out.
    """
    mode, size = settings.shard, settings.fsdp_size
    if mode not in MODES:
        raise ValueError(
            f"train.shard={mode!r} is unknown: choose one of {', '.join(MODES)}."
        )
    if size < 0 or (size and num_devices % size):
        raise ValueError(
            f"train.fsdp_size={size} does not divide the {num_devices} devices: use"
            " a divisor, or 0 for the devices of a process."
        )
    if mode == "none":
        return ShardChoice("none", None, "")
    if num_devices == 1:
        return ShardChoice(
            "none", None, f"on one device nothing can be (train.shard={mode})"
        )
    size = size or host_devices
    if num_devices % size:
        raise ValueError(
            f"train.fsdp_size=0 means the {size} devices of this process, and they do"
            f" not divide the {num_devices} of the run: say train.fsdp_size."
        )
    data = num_devices // size
    if mode == "optimizer":
        reason = (
            f"the optimizer's state, over {num_devices} devices ({data} x {size});"
            " parameters are whole on each"
        )
        return ShardChoice(mode, size, f"{reason} (train.shard=optimizer)")
    if size == 1:
        raise ValueError(
            "train.shard=full shares parameters out over train.fsdp_size devices, and"
            " that is 1 here: use more, or train.shard=optimizer."
        )
    reason = (
        f"parameters, frozen weights and the optimizer's state, over {size} of"
        f" {num_devices} devices"
    )
    if not takes_taps(recipe, mode):
        why = _why_whole(recipe)
        reason += f"; {why}, so a device holds a whole gradient for each step"
    return ShardChoice(mode, size, f"{reason} (train.shard=full)")


def takes_taps(recipe: Recipe, mode: str) -> bool:
    """Whether no device has to hold a whole gradient."""
    return mode == "full" and not _why_whole(recipe)


def _why_whole(recipe: Recipe) -> str:
    """Says what looks at a replica's own whole gradient; "" if nothing does."""
    if recipe.sam is not None:
        return "SAM follows each replica's own gradient"
    if recipe.agvm is None:
        return ""
    if recipe.agvm.precondition:
        return "agvm.precondition rescales each replica's own gradient"
    if recipe.agvm.estimator == "halves":
        return "agvm.estimator=halves compares sums of them (norms does not)"
    return ""
