"""A run so small that it compiles at once: two modules, four rows, numbered batches."""

import dataclasses
import os
import signal
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from agvm_jax.optim.modules import label_tree
from agvm_jax.optim.noise import noise_init
from agvm_jax.structures import Batch
from agvm_jax.training import mesh as mesh_lib
from agvm_jax.training.experiment import (
    Data,
    Evaluation,
    Experiment,
    Model,
    Start,
)
from agvm_jax.training.metrics import read_metrics
from agvm_jax.training.partition import Partition
from agvm_jax.training.resolve import resolve
from agvm_jax.training.sharded_step import make_step
from agvm_jax.training.state import create_state
from configs import base
from models.weights.files import write_weights
from models.weights.placing import flatten

ROWS = 4


def loss(params, model_state, batch, key):
    del key
    features = batch.boxes[:, 0]
    error = jnp.tanh(features @ params["backbone"]) @ params["head"] - 1.0
    value = jnp.mean(error**2)
    return value, (model_state, {"square": value})


def make_batch(number, bad=()):
    """Batch ``number``; of a ``bad`` one the first row is not a number."""
    rng = np.random.default_rng(number)
    boxes = rng.normal(size=(ROWS, 1, 4)).astype(np.float32)
    if number in bad:
        boxes[0] = np.nan
    batch = Batch(
        image=np.zeros((ROWS, 1, 1, 3), np.uint8),
        image_size=np.ones((ROWS, 2), np.int32),
        image_id=ROWS * number + np.arange(ROWS),
        boxes=boxes,
        classes=np.zeros((ROWS, 1), np.int32),
        valid=np.ones((ROWS, 1), bool),
        crowd=np.zeros((ROWS, 1), bool),
    )
    index, count = jax.process_index(), jax.process_count()
    own = slice(index * ROWS // count, (index + 1) * ROWS // count)
    return jax.tree.map(lambda leaf: leaf[own], batch)


class Stream:
    """Numbered batches; some of them bad, and one sends a signal when it is read."""

    def __init__(self, first, bad=(), signal_at=None, number=signal.SIGTERM, wait=0):
        self.counters = {"unreadable_images": 0}
        self.number, self._bad, self._signal_at = first, bad, signal_at
        self._signal, self._wait = number, wait

    def __next__(self):
        if self.number == self._signal_at:
            os.kill(os.getpid(), self._signal)
        time.sleep(self._wait)
        self.number += 1
        return make_batch(self.number - 1, self._bad)

    def close(self):
        pass


def make_experiment(
    folder,
    steps=6,
    micro_batches=1,
    settings=None,
    scores=None,
    source=None,
    seed=0,
    skip=0,
    devices=2,
    shard="none",
    **stream,
):
    """Returns the experiment.

    Args:
      folder: the run folder; it is made.
      settings: keys of the config.
      scores: step -> what is measured; by default it rises.
      devices: of all processes together.
      shard: what of the state is shared out, in twos under "full".
      stream: see `Stream`.
    """
    folder.mkdir(exist_ok=True)
    config = base.get_config()
    config.optim.lr_rule = "none"
    config.optim.warmup_steps = 0
    config.train.log_every_steps = 1
    config.train.trackers = ""
    config.train.progress = False
    config.train.max_skipped_steps = 2
    config.train.skip_steps = skip
    config.update_from_flattened_dict(settings or {})
    config.steps = steps
    config.batch_size = ROWS * micro_batches
    config.micro_batch_size = ROWS // devices
    resolved = resolve(
        config, num_images=2 * config.batch_size, num_devices=devices, platform="cpu"
    )
    recipe = resolved.recipe
    fsdp_size = None if shard == "none" else 2
    mesh = mesh_lib.data_mesh(jax.devices()[:devices], fsdp_size)
    partition = Partition(mesh, shard, least_size=1)
    params = {"backbone": jnp.full((4, 3), 0.1), "head": jnp.full(3, 0.1)}

    def initial_state():
        state = create_state(
            params,
            {},
            recipe.tx.init(params),
            noise_init(params),
            seed,
            average=recipe.ema_decay > 0,
        )
        return partition.put(state)

    def evaluate(state):
        step = int(state.step)
        return {"score": scores[step] if scores else step / 10}

    return Experiment(
        folder=folder,
        settings=config.train,
        resolved=resolved,
        data=Data(
            dataset=None,
            train=lambda first: Stream(first + skip * micro_batches, **stream),
            validation=list,
        ),
        model=Model(
            partition=partition,
            step=make_step(loss, recipe, resolved.plan, partition, label_tree(params)),
            predict=lambda state, batch: None,
            write_weights=lambda name, state, notes: write_weights(
                folder / name, flatten(state.params), notes
            ),
        ),
        evaluation=Evaluation(
            task=SimpleNamespace(metric="score"),
            evaluator=SimpleNamespace(),
            run=evaluate,
        ),
        start=Start(initial_state, source, seed),
    )


def replaced(experiment, part, **changes):
    """Returns the experiment with fields of one of its parts replaced."""
    new = dataclasses.replace(getattr(experiment, part), **changes)
    return dataclasses.replace(experiment, **{part: new})


def comparable(folder):
    """The lines of metrics.jsonl without what a clock says."""
    return [
        {k: v for k, v in line.items() if k not in ("time", "images_per_second")}
        for line in read_metrics(folder / "metrics.jsonl")
    ]


def losses(folder):
    """The loss of each step that metrics.jsonl has."""
    lines = read_metrics(folder / "metrics.jsonl")
    return {line["step"]: line["loss"] for line in lines if "loss" in line}
