"""Where a run's numbers go besides metrics.jsonl: TensorBoard, W&B, MLflow, Trackio.

A tracker takes the scalars of a step and can be closed. To add one, write a class and
a line in `TRACKERS`. Each is written by the first process alone, in the run's own
thread; what one fails at is told once and costs the run nothing else.
"""

import importlib.util
import json
import logging
import math
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from agvm_jax.training.run_folder import flat


class Tracker(Protocol):
    """Takes scalars."""

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Takes the scalars of a step, all of them finite."""

    def close(self) -> None:
        """Sends what is left and ends."""


class Run(NamedTuple):
    """What a tracker is told of a run.

    Attributes:
      folder: the run folder; what is written without a network lies in it.
      name: of the run.
      project: what it is filed under, train.tracker_project.
      config: the whole config, nested dicts.
      start_step: the step that this sitting starts from.
      log: of the run.
    """

    folder: Path
    name: str
    project: str
    config: Mapping[str, Any]
    start_step: int
    log: logging.Logger

    def id_for(self, tracker: str) -> str:
        """Returns this run's id with a tracker, the same in every sitting."""
        path = self.folder / "trackers.json"
        ids = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        if tracker not in ids:
            self.remember(tracker, uuid.uuid4().hex[:16])
            return self.id_for(tracker)
        return ids[tracker]

    def remember(self, tracker: str, identifier: str) -> None:
        """Keeps an id for the next sitting."""
        path = self.folder / "trackers.json"
        ids = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        path.write_text(json.dumps(ids | {tracker: identifier}) + "\n", "utf-8")

    def has(self, tracker: str) -> bool:
        """Whether a former sitting had this tracker."""
        path = self.folder / "trackers.json"
        return path.is_file() and tracker in json.loads(path.read_text("utf-8"))


class WandB:
    """Weights & Biases; WANDB_MODE=offline keeps it in the run folder."""

    def __init__(self, run: Run):
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", run.project),
            name=run.name,
            id=run.id_for("wandb"),
            resume="allow",
            dir=str(run.folder),
            config=dict(run.config),
            settings=wandb.Settings(silent=True),
        )

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """MLflow; at MLFLOW_TRACKING_URI, or in mlflow.db of the run folder."""

    def __init__(self, run: Run):
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        place = f"sqlite:///{run.folder.absolute() / 'mlflow.db'}"
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", place))
        if run.has("mlflow"):
            self._id = run.id_for("mlflow")
            self._client.update_run(self._id, status="RUNNING")
            return
        known = self._client.get_experiment_by_name(run.project)
        place = run.folder.absolute() / "mlflow_artifacts"
        experiment = (
            known.experiment_id
            if known
            else self._client.create_experiment(run.project, place.as_uri())
        )
        self._id = self._client.create_run(experiment, run_name=run.name).info.run_id
        run.remember("mlflow", self._id)
        for key, value in flat(run.config).items():
            self._client.log_param(self._id, key, str(value)[:500])

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(
            self._id,
            [self._metric(name, value, now, step) for name, value in scalars.items()],
        )

    def close(self) -> None:
        self._client.set_terminated(self._id)


class Trackio:
    """Trackio of Hugging Face: local, below TRACKIO_DIR or its usual place."""

    def __init__(self, run: Run):
        import trackio

        self._run = trackio.init(
            project=run.project,
            name=f"{run.name}_{run.id_for('trackio')[:6]}",
            config=dict(flat(run.config)),
            resume="allow",
            embed=False,
        )

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        self._run.finish()


def _tensorboard(run: Run) -> Tracker:
    from agvm_jax.training.tensorboard import Events

    return Events(run.folder / "tensorboard", run.start_step, run.log)


# Name -> what makes one, the module it needs, and where that comes from.
TRACKERS: dict[str, tuple[Callable[[Run], Tracker], str, str]] = {
    "tensorboard": (_tensorboard, "tensorboardX", "tensorboardX"),
    "wandb": (WandB, "wandb", "wandb"),
    "mlflow": (MLflow, "mlflow", "mlflow"),
    "trackio": (Trackio, "trackio", "trackio"),
}


def tracker_names(wanted: str) -> list[str]:
    """Returns the trackers that `train.trackers` names.

    Raises:
      ValueError: one is not known, or its package is not installed.
    """
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    for name in names:
        if name not in TRACKERS:
            raise ValueError(
                f"train.trackers={wanted}: {name!r} is not known; there are"
                f" {', '.join(TRACKERS)}, separated by commas, or nothing for none."
            )
        _, module, package = TRACKERS[name]
        if importlib.util.find_spec(module) is None:
            raise ValueError(
                f"train.trackers={wanted} needs the package {package}: pip install"
                f" {package}."
            )
    return names


class Guarded:
    """A tracker whose failures end it and not the run.

    Args:
      name: of the tracker.
      run: what it is told.
    """

    def __init__(self, name: str, run: Run):
        self._name, self._log = name, run.log
        self._tracker: Tracker | None = None
        make = TRACKERS[name][0]
        self._try(lambda: setattr(self, "_tracker", make(run)))

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Hands the finite ones on."""
        known = {name: value for name, value in scalars.items() if math.isfinite(value)}
        if self._tracker is not None:
            self._try(lambda: self._tracker.add(step, known))

    def close(self) -> None:
        """Closes it."""
        if self._tracker is not None:
            self._try(self._tracker.close)

    def _try(self, job: Callable[[], Any]) -> None:
        try:
            job()
        except Exception as error:  # whatever somebody's server or library does
            self._tracker = None
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            self._log.error(
                "the tracker %s failed and is left out from here on: %s. The numbers"
                " are all in metrics.jsonl.",
                self._name,
                reason,
            )


def open_trackers(names: Sequence[str], run: Run) -> list[Tracker]:
    """Opens trackers by name, for the first process."""
    return [Guarded(name, run) for name in names]
