"""Checkpoints: saved in the background, whole or not at all, and said when it is done.

The last few and the best one (by the evaluation's metric) are kept. Orbax writes into
a temporary folder and renames it, so a run killed while saving finds its former
checkpoint untouched. Beside the arrays lies a record of their checksums
(`training.integrity`); `training.restoring` reads both.
"""

import logging
import math
import shutil
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from agvm_jax.training import storage
from agvm_jax.training.integrity import make_record
from agvm_jax.training.mesh import first_process_says
from agvm_jax.training.restoring import RECORD, RECORD_FILE, STATE, as_dict
from agvm_jax.training.state import TrainState


class Checkpoints:
    """The checkpoints of one run folder, for writing.

    A save that fails is told in one sentence and is no error: the run goes on and the
    next one is tried. Ask `saved` where it matters.

    Args:
      folder: where they are.
      keep: how many of the last ones are kept; the best is kept beside them.
      metric: step -> the evaluation's metric, higher is better. It is looked at
        whenever it is decided what to keep, so the owner may add to it.
      log: where it is told what was saved and what was not.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        metric: MutableMapping[int, float],
        log: logging.Logger,
    ):
        self._folder = Path(folder).absolute()
        self._log = log
        self._saving: int | None = None  # the step that is on its way to the disk
        self._bytes = 0  # of its arrays
        self._manager = _Manager(
            self._folder,
            item_handlers={
                STATE: ocp.StandardCheckpointHandler(),
                RECORD: ocp.JsonCheckpointHandler(filename=RECORD_FILE),
            },
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_LastAndBest(keep, metric),
                enable_async_checkpointing=True,
                cleanup_tmp_directories=True,
            ),
        )

    def saved(self) -> list[int]:
        """Returns the steps that are on disk, oldest first."""
        steps = self._manager.all_steps()
        return sorted(step for step in steps if step != self._saving)

    def save(self, step: int, state: TrainState, **more: Any) -> None:
        """Starts saving in the background; a step that is already there is left.

        Args:
          step: steps taken so far.
          state: what to save. It is copied to the host before this returns, so its
            buffers may be donated afterwards.
          more: what else the record keeps, JSON-ready.
        """
        self.settle()
        if step in self._manager.all_steps():
            return
        self._remove_partial_ones()
        arrays = as_dict(state)
        self._bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
        lack = storage.too_little_space(self._folder, self._bytes)
        if first_process_says(bool(lack)):
            self._failed(step, lack or "the first process has no space for it")
            return
        record = make_record(arrays, **more)
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{
                        STATE: ocp.args.StandardSave(arrays),
                        RECORD: ocp.args.JsonSave(record),
                    }
                ),
            )
        except jax.errors.JaxRuntimeError:
            raise  # of the devices, not of the disk
        except Exception as error:
            self._failed(step, error)
        else:
            self._saving = step

    def settle(self, wait: bool = True) -> None:
        """Tells how the last save ended: once, and as soon as it is known.

        Args:
          wait: whether to wait for it.
        """
        if self._saving is None:
            return
        if not wait and self._manager.is_saving_in_progress():
            return
        step, self._saving = self._saving, None
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._failed(step, error)
        else:
            self._log.info("the checkpoint of step %d is on disk", step)

    def close(self) -> None:
        """Waits for saving and ends the background threads."""
        self.settle()
        self._manager.close()

    def _remove_partial_ones(self) -> None:
        """Gives back the space of saves that failed; none is under way."""
        if jax.process_index() == 0:
            for partial in self._folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(partial, ignore_errors=True)

    def _failed(self, step: int, why: str | Exception) -> None:
        """Tells that a step was not saved, and leaves nothing of it behind."""
        self._remove_partial_ones()
        if isinstance(why, Exception):
            why = storage.in_words(why, self._folder, self._bytes)
        self._manager.reload()
        steps = self.saved()
        self._log.error(
            "the checkpoint of step %d could not be saved: %s. Training goes on; the"
            " newest checkpoint is %s.",
            step,
            why,
            f"that of step {steps[-1]}" if steps else "none yet",
        )


class _Manager(ocp.CheckpointManager):
    """Orbax's, but for its own look-out for signals.

    It asks JAX at steps that the run has left behind, from a thread, and so could make
    the processes agree on a step that one of them has passed. The loop asks by itself.
    """

    def reached_preemption(self, step: int) -> bool:
        del step
        return False


class _LastAndBest(ocp.checkpoint_managers.PreservationPolicy):
    """Which checkpoints stay: the last few, and the best of those that are there."""

    def __init__(self, keep: int, metric: MutableMapping[int, float]):
        self._keep, self._metric = keep, metric

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> list[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        ranked = [
            (self._metric[step], step)
            for step in steps
            if not math.isnan(self._metric.get(step, math.nan))
        ]
        kept = {
            *sorted(steps)[-max(1, self._keep) :],
            *(step for _, step in sorted(ranked)[-1:]),
        }
        return [step in kept for step in steps]
