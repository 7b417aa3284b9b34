"""Checkpoints: what is kept, what comes back, what is said when the disk is full."""

import gc
import logging
import resource
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agvm_jax.training import storage
from agvm_jax.training.checkpoint import Checkpoints
from agvm_jax.training.restoring import restore, saved_steps
from agvm_jax.training.state import create_state

LOG = logging.getLogger("test")


def make_state(width=3, seed=0, head="head"):
    params = {
        "backbone": {"w": jnp.full((2, width), seed, jnp.float32)},
        head: {"b": jnp.ones(3, jnp.bfloat16)},
    }
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    return create_state(
        params, {"bn": {"mean": jnp.arange(3.0)}}, tx.init(params), {}, seed
    )


@pytest.fixture
def open_checkpoints(tmp_path):
    storage.hush_libraries()
    opened = []

    def open_checkpoints(keep=3, metric=None):
        opened.append(
            Checkpoints(tmp_path / "c", keep, {} if metric is None else metric, LOG)
        )
        return opened[-1]

    yield open_checkpoints
    for checkpoints in opened:
        checkpoints.close()


def test_a_fresh_process_gets_back_every_bit(open_checkpoints, tmp_path):
    state = make_state(seed=5)
    checkpoints = open_checkpoints()
    checkpoints.save(7, state, window=[{"loss": 0.1, "finite": 1.0}])
    checkpoints.settle()
    shapes = jax.eval_shape(make_state)
    restored = restore(tmp_path / "c", 7, shapes, LOG)
    chex.assert_trees_all_equal(restored.state, state)
    chex.assert_trees_all_equal_dtypes(restored.state, state)
    assert jax.tree.structure(restored.state) == jax.tree.structure(state)
    assert restored.record["window"] == [{"loss": 0.1, "finite": 1.0}]


def test_the_last_ones_and_the_best_are_kept(open_checkpoints):
    metric = {}
    checkpoints = open_checkpoints(keep=2, metric=metric)
    for step, ap in enumerate([0.1, 0.9, 0.3, None, float("nan"), None]):
        if ap is not None:
            metric[step] = ap
        checkpoints.save(step, make_state())
    checkpoints.settle()
    assert checkpoints.saved() == [1, 4, 5]
    checkpoints.close()
    # Another sitting knows the best too, and one that was evaluated late.
    metric[4] = 0.95
    checkpoints = open_checkpoints(keep=2, metric=metric)
    for step in (6, 7):
        checkpoints.save(step, make_state())
    checkpoints.settle()
    assert checkpoints.saved() == [4, 6, 7]


def test_saving_copies_before_it_returns(open_checkpoints, tmp_path):
    """The step donates its state, so the buffers are reused while saving goes on."""
    checkpoints = open_checkpoints()
    state = make_state(seed=2)
    expected = jax.tree.map(np.array, state)
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)
    checkpoints.save(1, state)
    overwrite(state)
    checkpoints.settle()
    restored = restore(tmp_path / "c", 1, make_state(), LOG)
    chex.assert_trees_all_equal(restored.state, expected)


def test_on_disk_is_said_when_it_is_there(open_checkpoints, tmp_path, caplog):
    there = []

    class Look(logging.Handler):
        def emit(self, record):
            there.append((record.getMessage(), saved_steps(tmp_path / "c")))

    caplog.set_level("INFO", logger="test")
    LOG.addHandler(look := Look())
    try:
        checkpoints = open_checkpoints()
        checkpoints.save(3, make_state())
        assert not there and checkpoints.saved() == []
        while not there:
            checkpoints.settle(wait=False)
        checkpoints.settle()
    finally:
        LOG.removeHandler(look)
    assert there == [("the checkpoint of step 3 is on disk", [3])]


# Orbax leaves its writes behind when one of them has failed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_told_at_once_and_the_next_save_works(
    open_checkpoints, tmp_path, caplog
):
    """A limit on the size of files stands for it: the writes fail for real."""
    noise = jax.random.normal(jax.random.key(0), (300, 300))
    state = make_state()
    state = create_state({"w": noise}, {}, state.opt_state, {}, 0)
    checkpoints = open_checkpoints()
    checkpoints.save(1, state)
    checkpoints.settle()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        checkpoints.save(2, state)
        checkpoints.settle()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    [message] = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert "the checkpoint of step 2 could not be saved" in message
    assert "newest checkpoint is that of step 1" in message
    assert "File too large" in message and len(message.splitlines()) == 1
    assert [entry.name for entry in (tmp_path / "c").iterdir()] == ["1"]
    gc.collect()
    for step in (2, 3):
        checkpoints.save(step, state)
    checkpoints.settle()
    assert checkpoints.saved() == [1, 2, 3] == saved_steps(tmp_path / "c")
    chex.assert_trees_all_equal(restore(tmp_path / "c", 2, state, LOG).state, state)


def test_a_disk_that_fills_up_meanwhile_says_what_is_missing(
    open_checkpoints, caplog, monkeypatch
):
    checkpoints = open_checkpoints()
    free = iter([10e6, 1e3])  # before, and after the failure

    def usage(folder):
        return SimpleNamespace(free=next(free))

    def write(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.disk_usage", usage)
    monkeypatch.setattr(checkpoints._manager, "save", write)
    checkpoints.save(1, make_state())
    assert "has 0.001 MB left; free another 1.05 MB there" in caplog.text


def test_a_state_that_does_not_fit_on_the_disk_is_not_begun(
    open_checkpoints, tmp_path, caplog, monkeypatch
):
    checkpoints = open_checkpoints()
    usage = SimpleNamespace(total=2e12, used=2e12, free=100)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    checkpoints.save(1, make_state())
    # A state of 56 bytes, and 1 MiB for what lies beside it.
    assert "has 0.0001 MB left; free another 1.05 MB there" in caplog.text
    assert "the newest checkpoint is none yet" in caplog.text
    monkeypatch.undo()
    checkpoints.save(2, make_state())
    checkpoints.settle()
    assert saved_steps(tmp_path / "c") == [2]
