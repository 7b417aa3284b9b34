"""A new run that begins with the whole state of another one, under changed keys.

One folder is one run, and a run's config does not change. To go on from a checkpoint
with another learning rate, another data set, without some batches, a new run is begun
in a folder of its own: ``train.start_from=RUN_FOLDER`` or ``RUN_FOLDER:STEP``.

Carried over: the step, parameters, BatchNorm statistics, the optimizer's state with mu
and phi of AGVM, and the averages of the noise scale. So the schedule, the warm-up and
the total number of steps are counted from the beginning of the former run, and the
data go on at its step times this config's batch, and ``train.skip_steps`` further:
where it stood, if that key is what it was there.

Not carried over: the random key, which is that of this config's seed; the count of
non-finite steps in a row, which begins anew; metrics, evaluations and checkpoints.
Whatever decides shapes (the model, the kind of optimizer, whether AGVM is on) has to be
the same; then every other key may differ.
"""

import dataclasses
import logging
from pathlib import Path

import jax
import numpy as np

from agvm_jax.run_files import LAST
from agvm_jax.training.integrity import DamagedCheckpoint
from agvm_jax.training.restoring import (
    CheckpointMismatch,
    NoGoodCheckpoint,
    Restored,
    restore,
    saved_steps,
)
from agvm_jax.training.state import TrainState, random_key


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint of another run.

    Attributes:
      folder: that run's folder.
      step: the checkpoint's.
    """

    folder: Path
    step: int

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints."""
        return self.folder / "checkpoints"

    def __str__(self) -> str:
        return f"{self.folder}:{self.step}"


def find_source(text: str, total_steps: int) -> Source:
    """Finds what ``train.start_from`` names.

    Args:
      text: a run folder, for its newest checkpoint; or "FOLDER:STEP".
      total_steps: of the run that begins.

    Raises:
      ValueError: there is no such checkpoint, or it lies behind this run's end.
    """
    name, _, number = text.rpartition(":")
    if not (name and number.isdigit()):
        name, number = text, ""
    folder = Path(name).expanduser()
    steps = saved_steps(folder / "checkpoints")
    if not steps:
        raise ValueError(
            f"train.start_from={text}: there is no checkpoint in"
            f" {folder / 'checkpoints'}; name a run folder, with :STEP behind it if it"
            " is not to be its newest checkpoint."
        )
    step = int(number) if number else steps[-1]
    if step not in steps:
        raise ValueError(
            f"train.start_from={text}: that run has no checkpoint of step {step}; it"
            f" has {', '.join(map(str, steps))}."
        )
    if step >= total_steps:
        raise ValueError(
            f"train.start_from={text}: that is step {step}, and this run ends after"
            f" {total_steps}, counted from the beginning of that one: raise"
            " config.steps or config.epochs."
        )
    return Source(folder, step)


def restore_source(
    source: Source, like: TrainState, seed: int, log: logging.Logger
) -> Restored:
    """Returns what a run begins with that starts from another.

    Args:
      source: from `find_source`.
      like: as in `restoring.restore`.
      seed: the new run's.
      log: where it is told.

    Raises:
      CheckpointMismatch: its arrays are not those of this model and optimizer.
      NoGoodCheckpoint: it is damaged; nothing of the other run is moved.
    """
    try:
        restored = restore(source.checkpoints, source.step, like, log)
    except CheckpointMismatch as error:
        weights = source.folder / LAST
        raise CheckpointMismatch(
            f"{error} To take over its weights alone:"
            f" --config.train.init_from={weights} --config.train.init_what=all."
        ) from error
    except DamagedCheckpoint as error:
        others = {*saved_steps(source.checkpoints)} - {source.step}
        raise NoGoodCheckpoint(
            f"train.start_from={source}: that checkpoint is damaged: {error}. Steps of"
            f" others there: {', '.join(map(str, sorted(others))) or 'none'}."
        ) from error
    old = restored.state
    state = dataclasses.replace(
        old,
        key=jax.device_put(random_key(seed), old.key.sharding),
        skipped=jax.device_put(np.zeros([], np.int32), old.skipped.sharding),
    )
    log.info("started from step %d of %s", source.step, source.folder)
    return Restored(state, source.step, {})


def how_to_go_on(folder: Path, stopped_at: int, skipping: int) -> str:
    """Says what can be done after a run stopped because nothing was finite any more.

    Args:
      folder: its run folder.
      stopped_at: the last of the steps that were not finite.
      skipping: that run's ``train.skip_steps``; a new one needs them as well, or it
        reads other batches than that one did.
    """
    elsewhere = "another --config.name (or --config.workdir)"
    kept = f" and --config.train.skip_steps={skipping} as here" if skipping else ""
    steps = saved_steps(folder / "checkpoints")
    if not steps:
        return (
            f"There is no checkpoint yet: begin anew under {elsewhere}, with a lower"
            " --config.optim.lr or a longer --config.optim.warmup_epochs."
        )
    return (
        f"The checkpoint of step {steps[-1]} is from before. This folder keeps its"
        f" config, so go on from there under {elsewhere}:"
        f" --config.train.start_from={folder}:{steps[-1]}, with a lower"
        f" --config.optim.lr{kept}, or without the batches up to this one:"
        f" --config.train.skip_steps={skipping + stopped_at - steps[-1]}."
    )
