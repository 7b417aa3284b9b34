"""Large images by tiles."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from test_found import CARD, found  # noqa: F401  (a fixture)

import predict
from agvm_jax.inference import tiles
from agvm_jax.inference.tiles import _merged, distinct, predict_by_tiles, tiles_of
from experiment import load


@pytest.mark.parametrize(
    "height, width", [(64, 64), (65, 64), (300, 64), (200, 333), (20, 500)]
)
def test_tiles_cover_an_image_and_overlap(height, width):
    corners = tiles_of(height, width, 64)
    if max(height, width) <= 64:
        assert corners == []
        return
    covered = np.zeros((height, width), int)
    for x1, y1, x2, y2 in corners:
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
        assert (x2 - x1, y2 - y1) == (min(64, width), min(64, height))
        covered[y1:y2, x1:x2] += 1
    assert covered.min() == 1
    # No object of a fifth of a tile lies across every tile that it touches.
    for x in range(0, width - 12):
        assert any(x1 <= x and x + 12 <= x2 for x1, _, x2, _ in corners)


def test_what_is_found_twice_is_one_object():
    boxes = np.array(
        [[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 4, 10], [0, 0, 10, 10], [30, 0, 40, 9]],
        float,
    )
    scores, classes = np.array([0.5, 0.9, 0.8, 0.3, 0.1]), np.array([0, 0, 0, 1, 0])
    assert distinct(boxes, scores, classes).tolist() == [1, 3, 4]
    assert distinct(boxes[:0], scores[:0], classes[:0]).tolist() == []


def test_masks_go_where_their_tiles_were(found):  # noqa: F811
    whole = dataclasses.replace(
        found,
        size=(200, 320),
        boxes=found.boxes[:0],
        scores=found.scores[:0],
        classes=found.classes[:0],
        masks=np.zeros((0, 200, 320), bool),
    )
    merged = _merged([whole, found], [(0, 0), (160, 100)])
    assert merged.names == ("dog", "cat") and merged.masks.shape == (2, 200, 320)
    np.testing.assert_allclose(merged.boxes[0], [160, 100, 240, 200])
    np.testing.assert_array_equal(merged.masks[:, 100:, 160:], found.masks)
    assert not merged.masks[:, :100].any() and not merged.masks[:, :, :160].any()


def test_objects_are_those_of_the_tiles(run_folder, image_folder):
    model = load(run_folder)
    image = np.asarray(Image.open(image_folder / "02.png").convert("RGB"))
    large = np.tile(image, (1, 2, 1))
    _, merged = predict_by_tiles(model, large, 64)
    assert merged.size == (64, 128) and len(merged) > 0
    parts = [(0, 0), *(corner[:2] for corner in tiles_of(64, 128, 64))]
    known = np.concatenate(
        [
            one.boxes + (x, y, x, y)
            for one, (x, y) in zip(
                model.predict([large, *(large[:, x : x + 64] for x, _ in parts[1:])]),
                parts,
                strict=True,
            )
        ]
    )
    for box in merged.boxes:
        assert np.abs(known - box).max(axis=1).min() < 1e-6
    _, small = predict_by_tiles(model, image, 64)
    np.testing.assert_array_equal(small.scores, np.sort(small.scores)[::-1])


def test_the_command_line_takes_tiles(run_folder, image_folder, tmp_path, capsys):
    out = tmp_path / "out"
    options = f"--run={run_folder}", f"--images={image_folder}", f"--out={out}"
    (image_folder / "torn.png").write_bytes(b"\x89PNG torn")
    try:
        assert predict.main([*options, "--tile=40", "--score=0", "--no-draw"]) == 0
    finally:
        (image_folder / "torn.png").unlink()
    assert "8 images, 1 left out" in capsys.readouterr().out
    content = json.loads((out / "predictions.json").read_text())
    assert len(content["images"]) == 8 and content["annotations"]
    assert predict.main([*options, "--tile=0"]) == 2
    assert "a tile of 0 pixels is none" in capsys.readouterr().err


def test_labels_have_no_tiles():
    class Model:
        card = CARD

    with pytest.raises(ValueError, match="tiles are for models that find boxes"):
        tiles.check_tiles(Model, 640)
