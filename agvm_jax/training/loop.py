"""The training loop: restore, iterate, log, evaluate, save.

It gets data, evaluator and model as arguments and knows none of them.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from agvm_jax.optim import noise
from agvm_jax.training import metrics as metrics_lib
from agvm_jax.training.batching import BatchPlan
from agvm_jax.training.checkpoint import Checkpoints
from agvm_jax.training.feed import Feed, StepAbandoned
from agvm_jax.training.progress import Clock, Progress
from agvm_jax.training.state import TrainState
from agvm_jax.training.step import TrainStep
from agvm_jax.training.stop_signal import StopSignal
from agvm_jax.training.watch import Watch

INTERRUPTED = (
    "stopped by a signal after step %d of %d; everything is saved, and the same command"
    " goes on from here"
)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that the loop works with; ``train.py`` builds it from a config.

    Attributes:
      folder: the run folder.
      mesh: the data mesh.
      plan: how a batch is shared out.
      total_steps: optimizer steps in the run.
      steps_per_epoch: steps that show every image once, possibly a fraction.
      initial_state: ``() -> TrainState``, replicated over the mesh.
      step: the compiled train step.
      schedule: step -> learning rate, on the host.
      train_batches: ``(first) -> iterator`` of this process's host batches from the
        pass with that number on, with ``close()`` and ``counters``.
      eval_batches: ``() -> iterable`` of this process's validation batches.
      predict: ``(state, host batch) -> Predictions`` of the same rows.
      evaluate: ``(state) -> dict`` with "AP", "AP50", ...
      evaluator: what `evaluate` fills; it can tell more after it.
      settings: the config's ``train`` section.
    """

    folder: Path
    mesh: jax.sharding.Mesh
    plan: BatchPlan
    total_steps: int
    steps_per_epoch: float
    initial_state: Callable[[], TrainState]
    step: TrainStep
    schedule: Callable[[int], Any]
    train_batches: Callable[[int], Iterator[Any]]
    eval_batches: Callable[[], Any]
    predict: Callable[[TrainState, Any], Any]
    evaluate: Callable[[TrainState], dict[str, float]]
    evaluator: Any
    settings: Any


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a sitting ended.

    Attributes:
      state: the state after the last step.
      step: that step's number.
      results: the last evaluation's numbers, or {} when interrupted before any.
      status: "finished" now, "was finished" already, or "interrupted" by a signal.
    """

    state: TrainState
    step: int
    results: dict[str, float]
    status: str


def train_and_evaluate(experiment: Experiment) -> Outcome:
    """Runs or resumes an experiment to its end.

    Raises:
      TrainingStopped: more than ``train.max_skipped_steps`` steps in a row had a loss
        or gradient that was not finite; the last good checkpoint stays.
      ValueError: the checkpoint does not fit.
    """
    settings, total = experiment.settings, experiment.total_steps
    first_process = jax.process_index() == 0
    log = metrics_lib.open_log(experiment.folder, first_process)
    checkpoints = Checkpoints(
        experiment.folder / "checkpoints", settings.keep_checkpoints
    )

    state, start = experiment.initial_state(), 0
    if (latest := checkpoints.latest()) is not None:
        state, start = checkpoints.restore(latest, state), latest
        log.info("resumed from the checkpoint of step %d of %d", start, total)
    if start >= total:
        results = experiment.evaluate(state)
        checkpoints.close()
        return Outcome(state, start, results, "was finished")

    if first_process:
        metrics_lib.write_environment(experiment.folder)
    writer = metrics_lib.MetricsWriter(
        experiment.folder,
        start_step=start,
        tensorboard=settings.tensorboard,
        active=first_process,
    )
    eval_every = _every(settings.eval_every_epochs, experiment)
    save_every = _every(settings.checkpoint_every_epochs, experiment)
    progress = Progress(total, start, settings.progress and first_process)
    stop = StopSignal()
    passes = experiment.plan.micro_batches
    # The stream is indexed, and every step takes the same number of passes.
    batches = experiment.train_batches(start * passes)
    feed = Feed(experiment.mesh, batches, passes, progress, stop)
    watch = Watch(settings.max_skipped_steps, log)
    clock = Clock(experiment.plan.batch_size)
    results: dict[str, float] = {}
    status = "finished"

    try:
        with stop:
            for step in range(start + 1, total + 1):
                try:
                    state, scalars = experiment.step(state, feed)
                except StepAbandoned:
                    step -= 1
                    status = "interrupted"
                    watch.check_all()
                    checkpoints.save(step, state)
                    log.info(INTERRUPTED, step, total)
                    break
                watch.add(step, scalars, feed.take_image_ids())
                clock.step()
                progress.step()

                if step % settings.log_every_steps == 0 or step == total:
                    logged = watch.mean_since_last()
                    logged["lr"] = float(experiment.schedule(step - 1))
                    logged["epoch"] = step / experiment.steps_per_epoch
                    logged["images_per_second"] = clock.images_per_second()
                    scales = noise_scales(state)
                    logged |= {f"noise_scale/{k}": v for k, v in scales.items()}
                    writer.write(step, logged)
                    progress.show(
                        **{
                            "loss": logged["loss"],
                            "images/s": logged["images_per_second"],
                        }
                    )

                ends = step == total
                stopping = stop.reached(step) and not ends
                evaluated = ends or (step % eval_every == 0 and not stopping)
                if evaluated:
                    watch.check_all()
                    with clock.paused():
                        results = experiment.evaluate(state)
                    writer.write(step, {f"eval/{k}": v for k, v in results.items()})
                    progress.show(AP=results["AP"])
                if ends or stopping or step % save_every == 0:
                    watch.check_all()
                    with clock.paused():
                        ap = results.get("AP") if evaluated else None
                        checkpoints.save(step, state, ap)
                if stopping:
                    status = "interrupted"
                    log.info(INTERRUPTED, step, total)
                    break
    finally:
        progress.close()
        feed.close()
        writer.close()
        checkpoints.close()
    for name, count in feed.counters.items():
        if count:
            log.info("data: %s: %d", name.replace("_", " "), count)
    return Outcome(state, step, results, status)


def noise_scales(state: TrainState) -> dict[str, float]:
    """Returns the run's gradient noise scale per module and in all, in images."""
    return {k: float(v) for k, v in noise.noise_scale(state.noise).items()}


def _every(epochs: float, experiment: Experiment) -> int:
    """Turns a number of epochs into steps; 0 means "only at the end"."""
    if epochs <= 0:
        return experiment.total_steps + 1
    return max(1, round(epochs * experiment.steps_per_epoch))
