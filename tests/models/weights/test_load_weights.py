"""Files of weights put into detectors: what is taken, and what stays."""

import chex
import jax
import numpy as np
import pytest
from small_weights import (
    CHANNELS,
    CLASSES,
    WIDTH,
    as_initialised,
    make_detector,
    shapes_of,
    whole_detector,
)
from torchvision_names import mask_rcnn_resnet18, resnet18, swin_t

from models.weights.files import read_notes, read_weights, write_weights
from models.weights.load import load_initial_weights
from models.weights.placing import flatten


@pytest.fixture(scope="module")
def swin():
    """The shapes of a detector with a Swin."""
    return shapes_of(make_detector("swin_t"))


@pytest.mark.parametrize("norm", ["synced", "frozen"])
def test_a_classification_model_gives_its_backbone(norm, load):
    detector = make_detector(norm=norm)
    tensors = resnet18(WIDTH)
    before = as_initialised(shapes_of(detector))
    weights = load(tensors, "backbone", shapes_of(detector))
    assert weights.report.splitlines() == [
        "weights.npz: 100 of 124 arrays",
        "as initialised: fpn, head",
        "not used: fc",
    ]
    params, model_state = weights.put_into(*before)
    conv = tensors["layer2.0.downsample.0.weight"].transpose(2, 3, 1, 0)
    module = params["backbone"]["layer2"]["0"]["shortcut"]
    np.testing.assert_array_equal(module["conv"]["kernel"], conv)
    affine = model_state if norm == "frozen" else params
    for tree, ours, theirs in (
        (affine, "scale", "weight"),
        (affine, "bias", "bias"),
        (model_state, "mean", "running_mean"),
        (model_state, "var", "running_var"),
    ):
        np.testing.assert_array_equal(
            tree["backbone"]["bn1"][ours], tensors[f"bn1.{theirs}"]
        )
    for name in ("fpn", "head"):
        jax.tree.map(np.testing.assert_array_equal, params[name], before[0][name])
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))


def test_a_swin_keeps_the_norms_that_classification_does_not_have(load, swin):
    tensors = swin_t(WIDTH)
    weights = load(tensors, "backbone", swin)
    assert weights.report.splitlines()[1:] == [
        "as initialised: backbone/norm1, backbone/norm2, backbone/norm3, "
        "backbone/norm4, fpn, head",
        "not used: head, norm",
    ]
    params, _ = weights.put_into(*as_initialised(swin))
    block = params["backbone"]["layer3"]["5"]
    name = "features.5.5"
    np.testing.assert_array_equal(
        block["fc2"]["kernel"], tensors[f"{name}.mlp.3.weight"].T
    )
    np.testing.assert_array_equal(
        block["attn"]["bias_table"],
        tensors[f"{name}.attn.relative_position_bias_table"],
    )
    np.testing.assert_array_equal(params["backbone"]["norm4"]["scale"], 7.0)


def with_names_of(tensors, who):
    """A Swin's tensors as timm or the authors call them."""
    renamed = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if name.startswith("features.0."):
            parts[:3] = ["patch_embed", {"0": "proj", "2": "norm"}[parts[2]]]
        elif parts[0] == "features" and int(parts[1]) % 2:
            parts[:2] = ["layers", str(int(parts[1]) // 2), "blocks"]
            if parts[4] == "mlp":
                parts[5] = {"0": "fc1", "3": "fc2"}[parts[5]]
        elif parts[0] == "features":
            stage = int(parts[1]) // 2 - (who == "authors")
            parts[:2] = ["layers", str(stage), "downsample"]
        elif parts[0] == "head" and who == "timm":
            parts.insert(1, "fc")
        renamed[".".join(parts)] = tensor
    if who == "authors":
        renamed["layers.0.blocks.1.attn_mask"] = np.zeros((64, 49, 49), np.float32)
    return renamed


@pytest.mark.parametrize("who", ["timm", "authors"])
def test_a_swin_is_known_by_the_names_of_timm_and_of_its_authors(who, load, swin):
    tensors = swin_t(WIDTH)
    expected = load(tensors, "backbone", swin).placed
    found = load(with_names_of(tensors, who), "backbone", swin).placed
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, path)


def test_a_whole_detector_is_taken_as_a_whole(load, resnet):
    tensors = whole_detector()
    weights = load(tensors, "all", shapes_of(resnet))
    assert weights.report == "weights.npz: 124 of 124 arrays"
    params, _ = weights.put_into(*as_initialised(shapes_of(resnet)))
    np.testing.assert_array_equal(
        params["head"]["class_logits"]["bias"],
        tensors["head.classification_head.cls_logits.bias"],
    )


def test_all_but_the_heads_does_not_mind_another_number_of_classes(load, resnet):
    before = as_initialised(shapes_of(resnet))
    weights = load(whole_detector(classes=5), "all_but_heads", shapes_of(resnet))
    assert weights.report.splitlines() == [
        "weights.npz: 122 of 124 arrays",
        "as initialised: head/class_logits",
        "not used: head.classification_head.cls_logits",
    ]
    params, _ = weights.put_into(*before)
    jax.tree.map(
        np.testing.assert_array_equal,
        params["head"]["class_logits"],
        before[0]["head"]["class_logits"],
    )


def test_the_backbone_of_a_whole_detector_can_be_taken(load, resnet):
    weights = load(whole_detector(classes=5), "backbone", shapes_of(resnet))
    assert weights.report.splitlines() == [
        "weights.npz: 100 of 124 arrays",
        "as initialised: fpn, head",
        "not used: backbone.fpn, head",
    ]


@pytest.fixture(scope="module")
def mask_rcnn():
    return make_detector(detector="mask_rcnn", anchors={"scales": 1})


@pytest.mark.parametrize("old", [False, True])
def test_a_whole_mask_rcnn_is_taken_under_old_names_and_new(old, load, mask_rcnn):
    shapes = shapes_of(mask_rcnn)
    tensors = mask_rcnn_resnet18(WIDTH, CHANNELS, units=12, classes=CLASSES, old=old)
    weights = load(tensors, "all", shapes)
    assert "as initialised" not in weights.report and "not used" not in weights.report
    params, _ = weights.put_into(*as_initialised(shapes))
    scores = tensors["roi_heads.box_predictor.cls_score.bias"]  # background first
    np.testing.assert_array_equal(
        params["box_head"]["class_logits"]["bias"], [*scores[1:], scores[0]]
    )


def test_all_but_the_heads_of_a_mask_rcnn_leaves_what_classes_give_their_size(
    load, mask_rcnn
):
    tensors = mask_rcnn_resnet18(WIDTH, CHANNELS, units=12, classes=CLASSES + 2)
    weights = load(tensors, "all_but_heads", shapes_of(mask_rcnn))
    assert weights.report.splitlines()[1:] == [
        "as initialised: box_head/box_deltas, box_head/class_logits, mask_head/logits",
        "not used: roi_heads.box_predictor, roi_heads.mask_predictor.mask_fcn_logits",
    ]


def test_published_detectors_are_made_up_for_their_epsilon_of_zero(
    load, tmp_path, resnet, monkeypatch
):
    from models.weights import files as weight_files

    name = "retinanet_resnet50_fpn_coco-eeacb38b.pth"
    tensors = whole_detector()
    tensors["backbone.body.bn1.running_var"] = np.array([1, 1e-4, 1e-8, 0], np.float32)
    np.savez(tmp_path / "x.npz", **tensors)
    (tmp_path / name).write_bytes(b"")
    monkeypatch.setattr(
        weight_files, "read_torch_file", lambda _: dict(np.load(tmp_path / "x.npz"))
    )
    monkeypatch.setattr(weight_files, "_check_name", lambda _: None)
    weights = load_initial_weights(
        str(tmp_path / name), "all", tmp_path, *shapes_of(resnet)
    )
    norm = {
        leaf: weights.placed[f"backbone/bn1/{leaf}"].astype(np.float64)
        for leaf in ("scale", "var")
    }
    ours = norm["scale"] / np.sqrt(norm["var"] + 1e-5)
    theirs = tensors["backbone.body.bn1.weight"].astype(np.float64)
    theirs[:3] /= np.sqrt([1, 1e-4, 1e-8])
    np.testing.assert_allclose(ours[:3], theirs[:3], rtol=1e-5)
    assert np.isfinite(ours[3])


@pytest.fixture(scope="module")
def own_run():
    return make_detector().init(jax.random.key(3))


@pytest.mark.parametrize("what", ["all", "all_but_heads", "backbone"])
def test_weights_of_another_run_fit_by_their_own_names(load, own_run, what):
    params, model_state = own_run
    shapes = shapes_of(make_detector(classes=CLASSES if what == "all" else CLASSES + 2))
    weights = load(flatten(params, model_state), what, shapes)
    unused = {"backbone": ["fpn, head"], "all_but_heads": ["head/class_logits"]}
    lines = [x for x in weights.report.splitlines() if x.startswith("not used: ")]
    assert lines == [f"not used: {names}" for names in unused.get(what, [])]
    found, state = weights.put_into(*as_initialised(shapes))
    taken = {"all": {"backbone", "fpn", "head"}, "backbone": {"backbone"}}
    for module in taken.get(what, {"backbone", "fpn"}):
        chex.assert_trees_all_equal(found[module], params[module])
    chex.assert_trees_all_equal(state, model_state)
    logits = found["head"]["class_logits"]["bias"]
    assert (logits == 7).all() == (what != "all")
    tower = found["head"]["class_tower"]["0"]["kernel"]
    assert (tower == 7).all() == (what == "backbone")


def test_weights_of_a_run_without_frozen_parts_fit_one_with_them(load, own_run):
    params, model_state = own_run
    shapes = shapes_of(make_detector(freeze_at=2))
    weights = load(flatten(params, model_state), "backbone", shapes)
    found, state = weights.put_into(*as_initialised(shapes))
    assert "layer1" not in found["backbone"]
    kernel = params["backbone"]["layer1"]["0"]["conv1"]["kernel"]
    stored = state["backbone"]["layer1"]["0"]["conv1"]["kernel"]
    np.testing.assert_array_equal(stored, kernel)


def test_a_file_that_was_written_is_read_back(tmp_path):
    tensors = {"backbone/conv1/kernel": np.arange(6.0).reshape(2, 3)}
    path = tmp_path / "weights.safetensors"
    write_weights(path, tensors, {"step": "3"})
    chex.assert_trees_all_equal(read_weights(path), tensors)
    assert read_notes(path) == {"step": "3"}
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    (tmp_path / "other").unlink()
    assert [p.name for p in tmp_path.iterdir()] == ["weights.safetensors"]


def test_a_file_of_a_run_of_before_is_read(tmp_path):
    tensors = {"backbone/conv1/kernel": np.arange(6.0).reshape(2, 3)}
    np.savez(tmp_path / "weights.npz", **tensors)
    chex.assert_trees_all_equal(read_weights(tmp_path / "weights.npz"), tensors)
