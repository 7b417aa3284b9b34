"""The training loop: restore, iterate, log, evaluate, save.

It gets data, evaluator and model as arguments and knows none of them.
"""

import contextlib
import json
import logging
import math

import jax

from agvm_jax.optim.noise import noise_scale
from agvm_jax.training import device_memory, storage
from agvm_jax.training import mesh as mesh_lib
from agvm_jax.training import metrics as metrics_lib
from agvm_jax.training.averaging import averaged
from agvm_jax.training.beginning import first_state, has_ended
from agvm_jax.training.checkpoint import Checkpoints
from agvm_jax.training.connecting import connect
from agvm_jax.training.experiment import Experiment, Outcome
from agvm_jax.training.feed import Feed, StepAbandoned
from agvm_jax.training.profile_window import ProfileWindow
from agvm_jax.training.progress import Clock, Progress
from agvm_jax.training.resolve import Resolved
from agvm_jax.training.restoring import Restored, saved_steps
from agvm_jax.training.save_times import SaveTimes
from agvm_jax.training.standing import AVERAGE, best_of, gains_no_more, is_best
from agvm_jax.training.start_from import how_to_go_on
from agvm_jax.training.stop_signal import StopSignal
from agvm_jax.training.trackers import Run, open_trackers, tracker_names
from agvm_jax.training.watch import TrainingStopped, Watch
from agvm_jax.training.watchdog import Watchdog
from agvm_jax.training.weight_files import write_best, write_last
from agvm_jax.training.windows import Windows


def train_and_evaluate(experiment: Experiment) -> Outcome:
    """Runs or resumes an experiment to its end.

    Raises:
      TrainingStopped: more than ``train.max_skipped_steps`` steps in a row had a loss
        or gradient that was not finite; the last good checkpoint stays.
      CheckpointMismatch: the checkpoint is of another model or optimizer.
      NoGoodCheckpoint: there are checkpoints, and all are damaged.
      OutOfDeviceMemory: the model, a step or the evaluation does not fit.
      StorageError: the last state could not be stored.
    """
    storage.hush_libraries()
    log = metrics_lib.open_log(experiment.folder, jax.process_index() == 0)
    connect(experiment.model.partition.mesh)
    with device_memory.said_of(device_memory.STATE):
        begin = first_state(experiment, log)
    if has_ended(experiment, begin):
        with device_memory.said_of(device_memory.EVALUATION):
            results = experiment.evaluation.run(begin.state)
        write_last(experiment, begin.state, log)
        return Outcome(begin.state, begin.step, results, "was finished")
    said = device_memory.said_of(device_memory.training(experiment.resolved.plan))
    try:
        with contextlib.closing(_Sitting(experiment, begin, log)) as sitting, said:
            status = sitting.run()
    except TrainingStopped as error:  # by now what was being saved is on disk
        skipping = experiment.settings.skip_steps
        advice = how_to_go_on(experiment.folder, error.step, skipping)
        raise TrainingStopped(f"{error} {advice}", error.step) from None
    return Outcome(sitting.state, sitting.step, sitting.results, status)


class _Sitting:
    """One process's work on a run, from where it stands to its end or a signal."""

    def __init__(self, experiment: Experiment, begin: Restored, log: logging.Logger):
        settings, start = experiment.settings, begin.step
        resolved, mesh = experiment.resolved, experiment.model.partition.mesh
        first_process = jax.process_index() == 0
        self.state, self.step = begin.state, start
        # Not when another run's checkpoint is the start: that step is the other's.
        self._resumed = start in saved_steps(experiment.folder / "checkpoints")
        self.results: dict[str, float] = {}
        self._experiment, self._log = experiment, log
        self._log_every = settings.log_every_steps
        self._eval_every = _every(settings.eval_every_epochs, resolved)
        self._save_times = SaveTimes(
            mesh,
            _every(settings.checkpoint_every_epochs, resolved),
            settings.checkpoint_every_minutes,
            alone=jax.process_count() == 1,
        )
        self._profile = ProfileWindow(experiment.folder, *settings.profile_steps)
        if first_process:
            metrics_lib.write_environment(experiment.folder)
        # Read before the writer removes what lies after the start.
        metric = experiment.evaluation.task.metric
        self._metric = metrics_lib.evaluated(experiment.folder, metric, start)
        self._writer = metrics_lib.MetricsWriter(
            experiment.folder,
            start_step=start,
            trackers=_trackers(experiment, start, log) if first_process else (),
            active=first_process,
        )
        self._checkpoints = Checkpoints(
            experiment.folder / "checkpoints",
            settings.keep_checkpoints,
            self._metric,
            log,
        )
        self._progress = Progress(
            resolved.total_steps, start, settings.progress and first_process
        )
        self._stop = StopSignal()
        passes = resolved.plan.micro_batches
        # The stream is indexed, and every step takes the same number of passes.
        batches = experiment.data.train(start * passes)
        self._feed = Feed(mesh, batches, passes, self._progress, self._stop)
        self._watch = Watch(settings.max_skipped_steps, experiment.folder, log)
        self._windows = Windows(self._write_window, begin.record.get("window", ()))
        self._noise_scale = jax.jit(noise_scale)
        self._clock = Clock(resolved.plan.batch_size)
        self._watchdog = Watchdog(
            experiment.folder, settings.hang_seconds, settings.hang_stops, log
        )

    def run(self) -> str:
        """Trains to the end or to a signal; returns which, as `Outcome.status`."""
        total = self._experiment.resolved.total_steps
        with self._stop:
            missing = self._evaluation_is_due() and self.step not in self._metric
            missing &= self._resumed
            early = False
            if mesh_lib.first_process_says(missing):
                # The former sitting was stopped before it.
                early = self._evaluate()
            while self.step < total and not early:
                self._watchdog.begins(f"step {self.step + 1}")
                self._profile.before(self.step, self.state)
                try:
                    self.state, scalars = self._experiment.model.step(
                        self.state, self._feed, self.step
                    )
                except StepAbandoned:
                    return self._interrupted()
                self.step += 1
                self._watch.add(self.step, scalars, self._feed.take_image_ids())
                self._windows.add(scalars)
                self._clock.step()
                self._progress.step()
                self._profile.after(self.step, self.state)
                self._checkpoints.settle(wait=False)
                ends = self.step == total
                stopping = self._stop.reached(self.step) and not ends
                window_ends = ends or self.step % self._log_every == 0
                if window_ends:
                    self._end_window()
                if ends or (self._evaluation_is_due() and not stopping):
                    early = self._evaluate()
                if stopping:
                    return self._interrupted()
                due = self._save_times.due(self.step, window_ends)
                if ends or early or due:
                    self._save()
        self._make_sure_that_it_is_saved()
        return "finished"

    def close(self) -> None:
        """Writes what is left to write and ends the threads."""
        try:
            # When the device failed, that has been raised already.
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                self._windows.write()
                self._profile.close(self.state)
        finally:
            self._watchdog.close()
            self._progress.close()
            self._feed.close()
            self._writer.close()
            self._checkpoints.close()
            write_last(self._experiment, self.state, self._log)
        for name, count in self._feed.counters.items():
            if count:
                self._log.info("data: %s: %d", name.replace("_", " "), count)

    def _end_window(self) -> None:
        step, resolved = self.step, self._experiment.resolved
        scales = self._noise_scale(self.state.noise)
        more = {
            "lr": resolved.recipe.schedule(step - 1),
            "epoch": step / resolved.steps_per_epoch,
            "images_per_second": self._clock.images_per_second(),
            **{f"noise_scale/{name}": scale for name, scale in scales.items()},
        }
        self._windows.end(step, more)

    def _write_window(self, step: int, line: dict[str, float]) -> None:
        # Not measured yet is not the same as without bound, which is written as null.
        line = {
            name: value
            for name, value in line.items()
            if not (name.startswith("noise_scale/") and math.isnan(value))
        }
        self._writer.write(step, line)
        shown = {"loss": line["loss"], "images/s": line["images_per_second"]}
        self._progress.show(**shown)

    def _evaluation_is_due(self) -> bool:
        return self.step > 0 and self.step % self._eval_every == 0

    def _evaluate(self) -> bool:
        """Evaluates; returns whether the run is to end here, since it gains no more."""
        self._watchdog.begins(f"the evaluation after step {self.step}")
        self._wait_for_the_device()
        evaluation, average = self._experiment.evaluation, {}
        said = device_memory.said_of(device_memory.EVALUATION)
        with self._clock.paused(), said:
            if self.state.average is not None:
                average = evaluation.run(averaged(self.state))
            self.results = evaluation.run(self.state)  # last: it is what is reported
        self.results |= {f"{AVERAGE}{name}": value for name, value in average.items()}
        metric = evaluation.task.metric
        value = best_of(self.results, metric)
        if is_best(value, self._metric):
            raw = value == self.results[metric]
            state = self.state if raw else averaged(self.state)
            write_best(self._experiment, state, value, self._log)
        self._metric[self.step] = value
        line = {f"eval/{name}": value for name, value in self.results.items()}
        self._writer.write(self.step, line)
        self._progress.show(**{metric: value})
        patience = self._experiment.settings.stop_after_evaluations_without_gain
        early = gains_no_more(self._metric, patience)
        early = bool(patience) and mesh_lib.first_process_says(early)
        if early:
            self._log.info(
                "stopped after step %d of %d: %s did not rise in %d evaluations",
                self.step,
                self._experiment.resolved.total_steps,
                metric,
                patience,
            )
        return early

    def _save(self) -> None:
        self._watchdog.begins(f"the checkpoint of step {self.step}")
        self._wait_for_the_device()
        with self._clock.paused():
            self._checkpoints.save(self.step, self.state, window=self._windows.begun())
        self._save_times.saved()

    def _wait_for_the_device(self) -> None:
        self._watch.check_all()
        self._windows.write()

    def _make_sure_that_it_is_saved(self) -> None:
        self._checkpoints.settle()
        if self.step not in self._checkpoints.saved():
            raise storage.StorageError(
                f"the state after step {self.step} could not be stored"
            )

    def _interrupted(self) -> str:
        self._save()
        self._make_sure_that_it_is_saved()
        self._log.info(
            "stopped by a signal after step %d of %d; everything is saved, and the same"
            " command goes on from here",
            self.step,
            self._experiment.resolved.total_steps,
        )
        return "interrupted"


def _trackers(experiment: Experiment, start: int, log: logging.Logger) -> list:
    """Opens what `train.trackers` names, for the first process."""
    folder, settings = experiment.folder, experiment.settings
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    name = "/".join(folder.absolute().parts[-2:])
    told = Run(folder, name, settings.tracker_project, config, start, log)
    return open_trackers(tracker_names(settings.trackers), told)


def _every(epochs: float, resolved: Resolved) -> int:
    """Turns a number of epochs into steps; 0 means "only at the end"."""
    if epochs <= 0:
        return resolved.total_steps + 1
    return max(1, round(epochs * resolved.steps_per_epoch))
