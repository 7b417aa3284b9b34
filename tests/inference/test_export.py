"""Exported programs, run where there is none of our code."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import export
from agvm_jax.inference.export_program import export_programs, prediction
from configs import base
from experiment import load
from trained import detector_for, detector_of, raw_outputs

RUN = """
import json, sys
import jax, numpy as np
data, image, size, out = sys.argv[1:]
run = jax.export.deserialize(bytearray(open(data, "rb").read()))
assert set(run.platforms) == {"cpu", "cuda", "tpu"}
image, size = np.load(image), np.load(size)
for count in (1, 8):
    found = run.call(image[:count], size[:count])
    np.savez(f"{out}{count}.npz", **found)
assert not {"agvm_jax", "models", "flax"} & {name.split(".")[0] for name in sys.modules}
"""


@pytest.fixture(scope="module")
def exported(run_folder, scratch):
    """Returns a function: what was written with --to of that kind."""

    def to(kind):
        folder = scratch / kind
        arguments = [f"--run={run_folder}", f"--to={kind}", f"--out={folder}"]
        assert export.main(arguments) == 0
        return folder

    return to


def test_a_program_runs_without_our_code_at_any_batch(
    exported, run_folder, experiment, tmp_path
):
    folder = exported("stablehlo")
    (batch,) = experiment.data.validation()
    np.save(tmp_path / "image.npy", batch.image)
    np.save(tmp_path / "size.npy", batch.image_size)
    program = folder / "model_64x64.stablehlo"
    files = [program, tmp_path / "image.npy", tmp_path / "size.npy", tmp_path / "found"]
    subprocess.run(
        [sys.executable, "-c", RUN, *map(str, files)],
        cwd=tmp_path,
        check=True,
        timeout=200,
    )
    expected = load(run_folder).run_batch(batch)
    for count in (1, 8):
        found = np.load(tmp_path / f"found{count}.npz")
        assert set(found) == {"boxes", "scores", "classes", "valid"}
        valid = np.asarray(expected.valid)[:count]
        np.testing.assert_array_equal(found["valid"], valid)
        # Forms for all platforms and those for a CPU differ in rounding.
        for name, limit in (("scores", 1e-6), ("boxes", 1e-2)):
            ours = np.asarray(getattr(expected, name))[:count]
            np.testing.assert_allclose(found[name], ours, atol=limit)
    assert json.loads((folder / "model.json").read_text())["image_size"] == [64, 64]


def test_weights_alone_can_be_loaded(exported, run_folder, image_folder):
    folder = exported("safetensors")
    image = image_folder / "00.png"
    found = load(folder / "model.safetensors").predict(image)
    np.testing.assert_array_equal(found.boxes, load(run_folder).predict(image).boxes)


@pytest.mark.parametrize(
    "decide, words",
    [
        (lambda image: image.shape[0] > 3, "comparison 'batch' > '3' is inconclusive"),
        (lambda image: len(image) > 3, "cannot be interpreted as an integer"),
    ],
)
def test_where_a_batch_must_be_a_number_two_are_written(decide, words):
    def run(image, image_size):
        return {"valid": image_size[:, 0] > 0 if decide(image) else image_size[:, 1]}

    programs, why = export_programs(run, (32, 32), ["cpu"])
    assert [program.batch for program in programs] == [1, 8]
    assert words in why


@pytest.mark.slow  # each is traced twice
@pytest.mark.parametrize(
    "detector, backbone",
    [
        ("retinanet", "uninet_b0"),
        ("mask_rcnn", "swin_t"),
        ("cascade_rcnn", "resnet18"),
        ("panoptic_fpn", "resnet18"),
        ("semantic_fpn", "resnet18"),
    ],
)
def test_every_detector_takes_any_batch(detector, backbone):
    config = base.get_config()
    config.model.detector, config.model.backbone = detector, backbone
    config.model.width = 0.25 if backbone == "resnet18" else 1.0
    config.image_size = (64, 64)
    built = detector_of(
        config,
        num_classes=3,
        num_labels=3 if detector in ("panoptic_fpn", "semantic_fpn") else 0,
        dtype="float32",
        platform="cuda",
        axes=None,
    )
    shapes = jax.eval_shape(built.init, jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    run = prediction(built.predict, *zeros)
    programs, why = export_programs(run, (64, 64), ["cpu", "cuda", "tpu"])
    assert [program.batch for program in programs] == [None], why


def test_the_raw_outputs_of_a_retinanet_run_in_onnxruntime(
    exported, run_folder, experiment
):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    (path,) = exported("onnx").glob("*.onnx")
    session = onnxruntime.InferenceSession(path)
    model = load(run_folder)
    raw, names = raw_outputs(model, detector_for(model.card, ["cuda", "cpu"]))
    assert [one.name for one in session.get_outputs()] == names
    (batch,) = experiment.data.validation()
    for count in (1, 8):
        image, size = batch.image[:count], batch.image_size[:count]
        found = session.run(None, {"image": image, "image_size": size})
        for ours, theirs in zip(raw(image, size), found, strict=True):
            np.testing.assert_allclose(theirs, ours, atol=2e-4)


def test_bad_input_is_one_sentence(run_folder, capsys):
    arguments = [f"--run={run_folder}", "--to=stablehlo", "--platforms=cpu,xpu"]
    assert export.main(arguments) == 2
    assert "'xpu' is none of cpu, cuda" in capsys.readouterr().err
