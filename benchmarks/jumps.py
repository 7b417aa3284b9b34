"""Files that one thing crosses: a COCO folder to a batch, a gradient to its update.

    python -m benchmarks.jumps

Counts what a reader of the code has to follow. A file counts when a function of it
runs. A jump is a pair of events, one after the other, that happen in two files: each
call of a function of `agvm_jax`, and each return from one, is an event. Libraries in
between are looked through, and imports do not count. Two ways are traced:

* data: `open_dataset` on a COCO folder of one image with masks that was never opened,
  and the first training batch of it, read in this thread;
* gradient: the end of a train step, from the moment that one replica's gradients are
  there to the new parameters; once to divide the work, so that each function is seen
  when JAX traces it. The loss is a toy.
"""

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import grain
import jax
import jax.numpy as jnp
import numpy as np

import agvm_jax
from agvm_jax.data import pipeline
from agvm_jax.data.dataset import open_dataset
from agvm_jax.optim.modules import label_tree
from agvm_jax.optim.noise import noise_init
from agvm_jax.training import mesh as mesh_lib
from agvm_jax.training.batching import plan_batches
from agvm_jax.training.recipes import build_optimizer
from agvm_jax.training.state import create_state
from agvm_jax.training.step import TrainStep
from benchmarks.coco_writer import coco_content, write_split
from configs import base

PACKAGE = Path(agvm_jax.__file__).parent


class Walk:
    """The files of `agvm_jax` that are gone through, and how often they change.

    Attributes:
      files: name in the package -> how often it is jumped to, in the order in which
        they are first reached.
      jumps: pairs of neighbouring events that happen in two files.
    """

    def __init__(self):
        self.files: dict[str, int] = {}
        self.jumps = 0
        self._here = ""

    def see(self, frame, event: str, argument) -> None:
        """What `sys.setprofile` calls."""
        del argument
        code = frame.f_code
        name = _name(code.co_filename)
        if event not in ("call", "return") or not name or code.co_name == "<module>":
            return
        if name != self._here:
            self.jumps += bool(self._here)
            self.files[name] = self.files.get(name, 0) + 1
            self._here = name

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Watch this thread."""
        before = sys.getprofile()
        sys.setprofile(self.see)
        try:
            yield
        finally:
            sys.setprofile(before)

    def lines(self, what: str) -> list[str]:
        """The counts and the files, to print."""
        return [
            f"{what}: {len(self.files)} files, {self.jumps} jumps",
            *(f"  {name}  ({count})" for name, count in self.files.items()),
        ]


def _name(file: str) -> str:
    """The file's name within the package; "" for one that is not in it."""
    path = Path(file)
    return path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else ""


def write_folder(root: Path) -> None:
    """A COCO folder of one image and two objects: a polygon, and run lengths."""
    height, width = 48, 64
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    counts = [5 * height, 3 * height, (width - 8) * height]
    content = coco_content(
        [("1.jpg", height, width)],
        [(1, (8.0, 8.0, 24.0, 16.0)), (1, (5.0, 0.0, 3.0, 48.0))],
        segmentations=[
            [[8.0, 8.0, 32.0, 8.0, 32.0, 24.0]],
            {"size": [height, width], "counts": counts},
        ],
    )
    data = cv2.imencode(".jpg", picture)[1].tobytes()
    for split in ("train", "val"):
        file = root / f"instances_{split}.json"
        write_split(file, root / split, content, {"1.jpg": data})


def walk_data(root: Path) -> Walk:
    """From a COCO folder that was never opened to the first training batch."""
    write_folder(root / "set")
    config = base.get_config().data
    config.name, config.root = "coco_folder", str(root / "set")
    config.cache_dir, config.mask_size = str(root / "cache"), 28
    walk = Walk()
    with _reading_in_this_thread(), walk.taken():
        dataset = open_dataset(config)
        batches = pipeline.train_batches(
            dataset.train, image_size=64, batch_size=1, seed=0, data_config=config
        )
        batch = next(batches)
        batches.close()
    assert batch.masks.any()
    return walk


@contextlib.contextmanager
def _reading_in_this_thread() -> Iterator[None]:
    """grain without threads, so that what is read is one batch, and seen."""
    options = grain.ReadOptions
    grain.ReadOptions = lambda **_: options(num_threads=0, prefetch_buffer_size=0)
    try:
        yield
    finally:
        grain.ReadOptions = options


def walk_gradient() -> Walk:
    """From a replica's gradients to the new parameters, AGVM around AdamW, measured."""
    config = base.get_config()
    plan = plan_batches(4, 1, 2, estimator=config.agvm.estimator)
    recipe = build_optimizer(
        config.optim, config.agvm, batch_size=4, total_steps=10, steps_per_epoch=10
    )
    params = {name: {"w": jnp.ones(2)} for name in ("backbone", "head")}
    walk = Walk()
    mesh = mesh_lib.data_mesh(jax.devices()[:1])
    step = TrainStep(_toy_loss, recipe, plan, mesh, label_tree(params), None)
    state = create_state(
        params, {}, recipe.tx.init(params), noise_init(tuple(params)), seed=0
    )
    batches = [
        mesh_lib.put_batch(mesh, np.full((2, 2), value, np.float32))
        for value in (1.0, 2.0)
    ]
    state = mesh_lib.put_replicated(mesh, state)
    carry = step.start(state, batches[0])
    gradients = step._grad

    def grad_then_watch(*arguments):
        """The gradients exist when this returns; what follows is watched."""
        found = gradients(*arguments)
        sys.setprofile(walk.see)
        return found

    step._grad = grad_then_watch
    try:
        for number, batch in enumerate(batches):
            carry = step.accumulate(state, carry, batch, jnp.int32(number))
        step.programs[True]["apply"](state, carry)
    finally:
        sys.setprofile(None)
    return walk


def _toy_loss(params, model_state, batch, key):
    """Least squares with two modules."""
    del key
    value = jnp.mean((batch * params["backbone"]["w"] @ params["head"]["w"]) ** 2)
    return value, (model_state, {"square": value})


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = walk_data(Path(folder))
    gradient = walk_gradient()
    print("\n".join(data.lines("a COCO folder to a batch")))
    print("\n".join(gradient.lines("a gradient to the update")))


if __name__ == "__main__":
    main()
