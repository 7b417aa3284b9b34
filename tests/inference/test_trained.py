"""load(run).predict(images): the numbers of the run's own evaluation."""

import cv2
import jax
import numpy as np
import pytest
from PIL import Image

from agvm_jax.data.annotations.errors import UnreadableImage
from experiment import load


@pytest.fixture(scope="module")
def model(run_folder):
    return load(run_folder)


def test_predictions_are_those_of_the_runs_own_evaluation(
    experiment, state, model, image_folder
):
    (batch,) = experiment.data.validation()  # eight images on eight devices
    expected = jax.device_get(experiment.model.predict(state, batch))
    found = model.predict(sorted(image_folder.iterdir()))
    assert len(found) == len(batch.image_id) == 8
    for row, one in enumerate(found):
        valid = expected.valid[row]
        assert len(one) == valid.sum() > 0
        # The images were drawn at the size of the input: pixels are pixels.
        np.testing.assert_array_equal(one.boxes, expected.boxes[row][valid])
        np.testing.assert_array_equal(one.scores, expected.scores[row][valid])
        np.testing.assert_array_equal(one.classes, expected.classes[row][valid])
        assert one.names == tuple(model.class_names[k] for k in one.classes)


def test_one_image_is_predicted_as_among_others(model, image_folder):
    paths = sorted(image_folder.iterdir())[:2]
    alone = model.predict(str(paths[1]))
    beside = model.predict(paths * 4)[1]
    array = model.predict(cv2.imread(str(paths[1]))[..., ::-1])
    for other in (beside, array):
        np.testing.assert_allclose(alone.boxes, other.boxes, atol=1e-3)
        np.testing.assert_allclose(alone.scores, other.scores, atol=1e-6)
    assert alone.name == str(paths[1]) and array.name == ""


def test_boxes_are_in_pixels_of_the_image_whatever_its_size(model, image_folder):
    small = np.asarray(Image.open(image_folder / "03.png").convert("RGB"))
    large = small.repeat(3, 0).repeat(3, 1)
    one, three = model.predict([small, large])
    assert three.size == (192, 192)
    # Reduced by averaging it is the small image again.
    np.testing.assert_allclose(three.boxes, 3 * one.boxes, atol=1e-2)


def test_a_model_may_look_otherwise_than_its_run_did(run_folder, image_folder):
    changes = (
        "--model.test_cfg.flip=True",
        "--config.model.retina_head.max_detections=3",
    )
    both = load(run_folder, overrides=changes)
    assert both.config["model"]["test_cfg"]["flip"]
    image = np.asarray(Image.open(image_folder / "00.png").convert("RGB"))
    found, other = both.predict(image), both.predict(image[:, ::-1])
    assert len(found) == 3
    # Mirrored it is seen the other way round first: what no plain network gives.
    np.testing.assert_allclose(found.scores, other.scores, atol=1e-5)
    left, right = found.boxes[:, 0], other.boxes[:, 2]
    np.testing.assert_allclose(left, image.shape[1] - right, atol=1e-2)
    with pytest.raises(ValueError, match="did you mean --model.test_cfg.flip"):
        load(run_folder, overrides=["--model.test_cfg.flop=True"])


def test_a_score_leaves_out_what_lies_below(model, image_folder):
    everything = model.predict(image_folder / "00.png")
    score = float(np.median(everything.scores))
    best = model.predict(image_folder / "00.png", score=score)
    assert 0 < len(best) < len(everything) and best.scores.min() >= score


def test_a_turned_photo_is_predicted_as_its_owner_sees_it(
    model, image_folder, tmp_path
):
    upright = Image.open(image_folder / "05.png").convert("RGB").resize((64, 48))
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    lying.save(tmp_path / "turned.png", exif=exif)
    seen, turned = model.predict([tmp_path / "upright.png", tmp_path / "turned.png"])
    assert seen.size == turned.size == (48, 64)
    np.testing.assert_array_equal(seen.boxes, turned.boxes)


def test_images_of_other_kinds(model):
    gray = np.full((40, 50), 90, np.uint8)
    color = np.repeat(gray[..., None], 3, -1)
    alpha = np.concatenate([color, color[..., :1]], -1)
    found = model.predict([gray, color, alpha])
    for one in found:
        np.testing.assert_array_equal(one.boxes, found[1].boxes)
    for wrong in (color / 255, color.transpose(2, 0, 1), np.zeros((2, 2, 3), int)):
        with pytest.raises(ValueError, match="an image is"):
            model.predict(wrong)


def test_an_image_that_cannot_be_read_is_named(model, image_folder, tmp_path):
    torn = tmp_path / "torn.png"
    torn.write_bytes((image_folder / "00.png").read_bytes()[:200])
    (tmp_path / "words.jpg").write_text("no image")
    for name, why in (("torn.png", "truncated"), ("words.jpg", "cannot be decoded")):
        with pytest.raises(UnreadableImage, match=f"{name} .*{why}"):
            model.predict(tmp_path / name)
    with pytest.raises(UnreadableImage, match="none.png cannot be read: No such file"):
        model.predict([image_folder / "00.png", tmp_path / "none.png"])
    # The others go on.
    paths = [torn, image_folder / "00.png"]
    (none, error), (opened, found) = model.predict_each(paths)
    assert none is None and "torn.png" in str(error)
    assert opened.name.endswith("00.png") and len(found)


def test_weights_of_a_file_and_of_a_config(run_folder, model, image_folder, experiment):
    from trained import config_of

    image = image_folder / "01.png"
    expected = model.predict(image)
    file = run_folder / "weights.safetensors"
    for other in (load(file), load(file, config=config_of(model.card))):
        np.testing.assert_array_equal(other.predict(image).boxes, expected.boxes)
        assert other.class_names == experiment.data.dataset.class_names


def test_what_is_missing_is_told(run_folder, tmp_path):
    with pytest.raises(ValueError, match="there is no run folder .* there are .*run"):
        load(run_folder.parent / "runn")
    with pytest.raises(ValueError, match="is no run folder"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="has no model.json yet"):
        load(tmp_path)
    (tmp_path / "model.json").write_bytes((run_folder / "model.json").read_bytes())
    with pytest.raises(ValueError, match="has no weights yet"):
        load(tmp_path)
    with pytest.raises(ValueError, match="no weights 'average'; there are weights.saf"):
        load(run_folder, "average")
    (tmp_path / "weights.safetensors").touch()
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ValueError, match="is not what a run leaves there"):
        load(tmp_path)
