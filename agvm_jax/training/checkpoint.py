"""Checkpoints: saved in the background, whole or not at all, restored bit for bit.

The last few and the best one (by AP) are kept. Orbax writes into a temporary folder and
renames it, so a run killed while saving finds its former checkpoint untouched.
"""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from agvm_jax.training.state import TrainState

METRIC = "AP"


class CheckpointMismatch(ValueError):
    """A checkpoint belongs to another model or optimizer."""


def any_checkpoint(folder: Path) -> bool:
    """Returns whether the folder of a run's checkpoints holds a whole one."""
    # One that is still being written has a longer name.
    return any(entry.name.isdigit() for entry in Path(folder).glob("*"))


class Checkpoints:
    """The checkpoints of one run folder.

    Args:
      folder: where they are.
      keep: how many of the last ones are kept; the best is kept beside them.
    """

    def __init__(self, folder: Path, keep: int = 3):
        policies = ocp.checkpoint_managers
        self._manager = ocp.CheckpointManager(
            Path(folder).absolute(),
            # Named here, so that a fresh process can read shapes before restoring.
            item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(
                    [
                        policies.LatestN(keep),
                        policies.BestN(
                            get_metric_fn=lambda metrics: metrics[METRIC],
                            n=1,
                            keep_checkpoints_without_metrics=False,
                        ),
                    ]
                ),
                enable_async_checkpointing=True,
                cleanup_tmp_directories=True,
            ),
        )

    def latest(self) -> int | None:
        """Returns the step of the newest whole checkpoint."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Returns the steps that are kept, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: TrainState, ap: float | None = None) -> None:
        """Starts saving in the background; a step that is already there is left.

        Args:
          step: steps taken so far.
          state: what to save. It is copied to the host before this returns, so its
            buffers may be donated afterwards.
          ap: the AP measured at this step, which ranks it for "best".
        """
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.StandardSave(_as_dict(state)),
            metrics=None if ap is None else {METRIC: float(ap)},
        )

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Restores one checkpoint.

        Args:
          step: which.
          like: a state of this run's model and optimizer, with the shardings wanted.

        Raises:
          CheckpointMismatch: it belongs to another model or optimizer; the message
            lists what differs.
        """
        target = _as_dict(like)
        differences = self._differences(step, target)
        if differences:
            shown = "; ".join(differences[:10])
            more = f"; and {len(differences) - 10} more" if differences[10:] else ""
            raise CheckpointMismatch(
                f"the checkpoint of step {step} in {self._manager.directory} does not"
                f" fit this model and optimizer: {shown}{more}. Use the config it was"
                " made with, or another --config.name."
            )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, target)
        restored = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        return TrainState(**_with_nodes_of(target, restored))

    def wait(self) -> None:
        """Waits until everything is on disk, and raises if saving failed."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for saving and ends the background threads."""
        self._manager.close()

    def _differences(self, step: int, target: dict[str, Any]) -> list[str]:
        """Says which arrays are missing, left over or of another shape."""
        saved = _shapes(self._manager.item_metadata(step))
        wanted = _shapes(target)
        found = []
        for path in sorted(saved.keys() | wanted.keys()):
            if path not in saved:
                found.append(f"{path} is not in it")
            elif path not in wanted:
                found.append(f"{path} is only in it")
            elif saved[path] != wanted[path]:
                found.append(f"{path} is {saved[path]} there and {wanted[path]} here")
        return found


def _as_dict(state: TrainState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in TrainState.__dataclass_fields__}


def _with_nodes_of(target: Any, restored: Any) -> Any:
    """Gives restored leaves the containers (tuples, NamedTuples) of ``target``."""
    leaves = dict(_leaves(restored))
    paths, treedef = jax.tree_util.tree_flatten_with_path(target)
    return jax.tree.unflatten(treedef, [leaves[_name(path)] for path, _ in paths])


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in _leaves(tree)}


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(_name(path), leaf) for path, leaf in flat]


def _name(path: tuple[Any, ...]) -> str:
    """Writes a path the same for dicts, tuples and NamedTuples."""
    return "/".join(
        str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path
    )
