"""Exported programs, run where there is none of our code."""

import json
import subprocess
import sys

import numpy as np
import pytest

import export
from agvm_jax.inference.export_program import export_programs
from experiment import load

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


def test_where_a_batch_must_be_a_number_two_are_written():
    def run(image, image_size):
        if image.shape[0] > 3:  # no answer for a free batch
            return {"valid": image_size[:, 0] > 0}
        return {"valid": image_size[:, 1] > 0}

    programs, why = export_programs(run, (32, 32), ["cpu"])
    assert [program.batch for program in programs] == [1, 8]
    assert "comparison 'batch' > '3' is inconclusive" in why


def test_the_raw_outputs_of_a_retinanet_run_in_onnxruntime(
    exported, run_folder, experiment
):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    from trained import detector_for, raw_outputs

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
