"""train.py --compile_for: the whole way, on the CPU's compiler and on a TPU's."""

import importlib.util
import json

import jax
import pytest
from command_lines import run

from agvm_jax.compiling.chips import Chip
from agvm_jax.compiling.machine import Machine
from agvm_jax.data import open_dataset, train_batches
from agvm_jax.data.unopened import count
from agvm_jax.training.config_file import read_config
from agvm_jax.training.mesh import put_batch
from ahead import _plan, _resolve, batch_shapes, compile_ahead

HERE = Chip("cpu", 64e9, 0.0, 1e12, 1e11, 1e10)


def machine():
    return Machine("cpu", HERE, jax.devices(), 4, 8)


def tiny(cache, **keys):
    config = read_config("configs/tiny.py")
    config.update_from_flattened_dict({"data.cache_dir": str(cache), **keys})
    return config


def test_an_unknown_machine_is_one_sentence(complaint):
    said = complaint("--compile_for=tpu:v99:2x2")
    assert "'tpu:v99:2x2' is no machine to compile for" in said


def test_a_config_that_does_not_fit_the_machine_is_one_sentence(complaint, monkeypatch):
    monkeypatch.setattr("ahead.find_machine", lambda name: machine())
    said = complaint("--compile_for=cpu", "--config.batch_size=12")
    assert "batch_size=12 cannot be divided over 8 devices" in said


@pytest.mark.parametrize("name", ["coco", "lvis", "ade20k"])
def test_published_sets_need_not_be_there(name):
    config = read_config("configs/base.py").data
    config.update(name=name, semantic="all" if name == "ade20k" else "none")
    assert count(config).images > 20_000


def test_the_abstract_batch_is_that_of_training(cache):
    """Masks and labels too: what the pipeline gives, as the step gets it."""
    config = tiny(
        cache,
        **{"data.mask_size": 28, "data.semantic": "stuff", "data.shapes.stuff": True},
    )
    counts = count(config.data)
    dataset = open_dataset(config.data)
    assert counts.images == len(dataset.train)
    assert counts.classes == len(dataset.class_names)
    assert counts.labels == len(dataset.label_names("stuff"))
    planned = _plan(config, _resolve(config, machine(), counts), machine(), counts)
    stream = train_batches(
        dataset.train,
        image_size=config.image_size,
        batch_size=8,
        seed=0,
        data_config=config.data,
    )
    batch = put_batch(planned.partition.mesh, next(stream))
    stream.close()
    shapes = batch_shapes(config, planned, 8)

    def described(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), tree)

    assert described(shapes) == described(batch)


@pytest.mark.slow
def test_a_step_is_compiled_and_told_of(cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ahead.find_machine", lambda name: machine())
    # The second size is then the largest that is asked for: one compilation less.
    monkeypatch.setattr("agvm_jax.compiling.largest.MOST", 4)
    code = run(
        f"--config.workdir={tmp_path}",
        "--config.batch_size=8",
        f"--config.data.cache_dir={cache}",
        "--compile_for=cpu",
    )
    said = capsys.readouterr().out
    assert code == 0, said
    for words in ("nothing ran", "confirmed by compiling", "It is a roofline"):
        assert words in said
    found = json.loads((tmp_path / "compiled/cpu.json").read_text())
    assert found["fits"] and found["devices"] == 8
    # Both halves' sums go around, and what AGVM adds is small beside the gradients.
    assert 0 < found["agvm"]["more_when_it_measures"]["sent"] < 0.6
    assert not (tmp_path / "config.json").exists()  # a run may still begin here


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs libtpu")
@pytest.mark.parametrize("name, mode", [("v5e:2x2", "none"), ("v5p:2x2x1", "full")])
def test_a_small_detector_compiles_for_a_tpu(cache, name, mode):
    from agvm_jax.compiling.machine import find_machine

    keys = {"batch_size": 8, "train.shard": mode, "agvm.estimator": "norms"}
    compiled = compile_ahead(
        tiny(cache, **keys), find_machine(f"tpu:{name}"), compare=False, search=False
    )
    assert compiled.fits
    reading = compiled.reading
    sent = sum(moved for _, moved in reading.sent.values())
    gradients = 4 * compiled.parameters
    assert 1.5 * gradients * 3 / 4 < sent < 2.5 * gradients
    assert reading.cost.cycles > 0 and reading.cost.flops > 0
